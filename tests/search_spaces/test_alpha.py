"""The alpha space in a real Optuna study."""

import re
import warnings

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import AlphaSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)


def run(space, trials=8, seed=0):
    study = optuna.create_study(sampler=space.sampler(seed))
    for point in space.starting_points():
        study.enqueue_trial(point)
    study.optimize(lambda trial: sum(space.suggest(trial).values()), n_trials=trials)
    return [trial.params for trial in study.trials]


def test_starting_points():
    assert AlphaSpace().starting_points() == [{"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1.5}]
    assert AlphaSpace(high=0.2).starting_points() == [{"alpha": 0.0}, {"alpha": 0.2}]
    assert AlphaSpace(low=2.0).starting_points() == [{"alpha": 2.0}]
    assert AlphaSpace(low=1.0, learning_rate=(1e-4, 1e-2)).starting_points() == [
        {"alpha": 1.0, "learning_rate": 1e-2},
        {"alpha": 1.5, "learning_rate": 1e-2},
    ]


@settings(deadline=None)
@given(st.floats(0.0, 5.0), st.floats(0.0, 5.0))
def test_starting_points_are_different_and_in_the_range(a, b):
    space = AlphaSpace(min(a, b), max(a, b))
    alphas = [point["alpha"] for point in space.starting_points()]
    assert len(set(alphas)) == len(alphas) >= 1
    assert all(space.low <= alpha <= space.high for alpha in alphas)


def test_a_study_begins_with_the_starting_points_and_stays_in_the_range():
    space = AlphaSpace(high=2.0, learning_rate=(1e-3, 1e-1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tried = run(space)
    assert tried[:3] == space.starting_points()
    assert all(0.0 <= p["alpha"] <= 2.0 and 1e-3 <= p["learning_rate"] <= 1e-1 for p in tried)


@pytest.mark.parametrize("learning_rate", [None, (1e-3, 1e-1)])
def test_the_seed_determines_the_search(learning_rate):
    space = AlphaSpace(learning_rate=learning_rate)
    assert run(space) == run(space)
    assert run(space) != run(space, seed=1)


def test_parallel_trials_get_different_alphas():
    space = AlphaSpace()
    study = optuna.create_study(sampler=space.sampler(0))
    for k in range(8):
        study.tell(trial := study.ask(), (space.suggest(trial)["alpha"] - 1.0) ** 2 + k)
    alphas = [space.suggest(study.ask())["alpha"] for _ in range(4)]
    assert len({round(alpha, 3) for alpha in alphas}) == 4


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"low": -1.0}, "low: expected a number >= 0, got -1.0"),
        ({"low": 2.0, "high": 1.0}, "high: expected a number >= low = 2.0, got 1.0"),
        ({"high": float("inf")}, "high: expected a finite number, got inf"),
        (
            {"learning_rate": (0.0, 1.0)},
            "learning_rate: expected a tuple (smallest, largest) with 0 < smallest <= largest, got (0.0, 1.0)",
        ),
        (
            {"learning_rate": 0.025},
            "learning_rate: expected a tuple (smallest, largest), got 0.025",
        ),
        (
            {"learning_rate": (0.1, "1")},
            "learning_rate[1]: expected a finite number, got '1'",
        ),
    ],
)
def test_bad_bounds(bounds, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AlphaSpace(**bounds)


def test_bad_seed():
    with pytest.raises(ValueError, match=r"^seed: expected an integer >= 0, got -1$"):
        AlphaSpace().sampler(-1)
