"""The alpha sweep: what it asks, what it tells Optuna, and that a killed driver loses nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import TrialState

from hpo.sweep import Parameters, Sweep, journal
from search_spaces import AlphaSpace

SPACE = AlphaSpace(0.0, 3.0)
STARTS = [0.0, 0.5, 1.5]


def identify(parameters: Parameters) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in parameters.items())


def sweep(
    storage: BaseStorage | None = None,
    trials: int = 6,
    seed: int = 0,
    finished: Mapping[str, Parameters] | None = None,
    space: AlphaSpace = SPACE,
) -> Sweep:
    return Sweep(space, trials, seed, identify, storage, "sweep", finished)


def asked(found: Sweep, count: int = 1000) -> list[float]:
    """Ask at most so many times, until there is nothing more to ask."""
    alphas: list[float] = []
    while len(alphas) < count and (parameters := found.ask()) is not None:
        alphas.append(parameters["alpha"])
    return alphas


def objective(alpha: float) -> float:
    return (alpha - 0.7) ** 2


def tell(found: Sweep, *alphas: float) -> None:
    for alpha in alphas:
        found.tell(identify({"alpha": alpha}), objective(alpha))


def optuna_trials(storage: BaseStorage) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=storage).get_trials()


def states(storage: BaseStorage) -> Counter[TrialState]:
    return Counter(trial.state for trial in optuna_trials(storage))


@pytest.mark.parametrize("trials", [1, 2, 3, 8])
def test_asks_the_starting_points_first_and_exactly_its_trials(trials: int) -> None:
    found = sweep(trials=trials)
    assert found.remaining == trials
    alphas = asked(found)
    assert len(alphas) == trials
    assert alphas[:3] == STARTS[:trials]
    assert all(0 <= alpha <= 3 for alpha in alphas)
    assert (found.remaining, found.ask()) == (0, None)


def test_searches_the_learning_rate_too() -> None:
    found = sweep(space=AlphaSpace(0.0, 1.0, learning_rate=(0.01, 0.1)), trials=5)
    first = found.ask()
    assert first == {"alpha": 0.0, "learning_rate": 0.025}
    later = [found.ask() for _ in range(4)]
    assert all(p is not None and 0.01 <= p["learning_rate"] <= 0.1 for p in later)


def test_learns_from_scores() -> None:
    near = 0
    for seed in range(8):
        found = sweep(trials=30, seed=100 * seed)
        alphas = []
        while (parameters := found.ask()) is not None:
            alphas.append(parameters["alpha"])
            tell(found, parameters["alpha"])
        near += sum(abs(alpha - 0.7) < 0.5 for alpha in alphas[15:])
    assert near > 60  # of 120, in a third of the range: blind search finds 40 +- 5


def test_tells_optuna_the_truth() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=4)
    asked(found)
    found.tell(identify({"alpha": 0.0}), -3.5)
    found.tell(identify({"alpha": 0.5}), None)
    trials = optuna_trials(storage)
    assert [trial.state for trial in trials[:3]] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING]
    assert (trials[0].value, trials[1].value) == (-3.5, None)
    assert [trial.user_attrs["identity"] for trial in trials[:2]] == ["alpha=0", "alpha=0.5"]
    found.tell(identify({"alpha": 0.0}), 99.0)  # told twice: the first stays
    assert optuna_trials(storage)[0].value == -3.5


def test_two_of_optuna_s_trials_with_one_identity_are_told_together() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=3, space=AlphaSpace(1.0, 1.0))
    assert asked(found) == [1.0, 1.0, 1.0]
    found.tell("alpha=1", 2.0)
    assert [(trial.state, trial.value) for trial in optuna_trials(storage)] == [(TrialState.COMPLETE, 2.0)] * 3


def finished(*alphas: float) -> dict[str, Parameters]:
    return {identify({"alpha": alpha}): {"alpha": alpha} for alpha in alphas}


def test_a_killed_driver_asks_its_running_trials_again(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(journal(file))
    alphas = asked(before, 4)
    tell(before, alphas[0])
    del before

    after = sweep(journal(file), finished=finished(alphas[0]))
    assert after.remaining == 5
    again = asked(after)
    assert again[:3] == alphas[1:]
    assert len(again) == 5
    assert not set(again[3:]) & set(alphas)
    tell(after, *again)
    assert states(journal(file)) == {TrialState.COMPLETE: 6}


def test_a_sweep_that_has_asked_all_only_asks_again_what_was_running(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(journal(file), trials=4)
    alphas = asked(before)
    tell(before, *alphas[:3])
    after = sweep(journal(file), trials=4, finished=finished(*alphas[:3]))
    assert asked(after) == alphas[3:]
    assert asked(sweep(journal(file), trials=4, finished=finished(*alphas))) == []


def test_a_result_that_mlflow_lost_runs_again(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(journal(file), trials=3)
    tell(before, *asked(before))
    after = sweep(journal(file), trials=3, finished=finished(0.0, 1.5))
    assert asked(after) == [0.5]
    tell(after, 0.5)
    assert states(journal(file)) == {TrialState.COMPLETE: 3}


def test_results_that_the_journal_lost_are_added_and_not_asked_again() -> None:
    storage = InMemoryStorage()
    found = sweep(storage, trials=6, finished=finished(0.0, 0.5, 2.25))
    tell(found, 0.0, 0.5)
    found.tell("alpha=2.25", None)  # it has diverged
    assert [(t.params["alpha"], t.state) for t in optuna_trials(storage) if t.state != TrialState.WAITING] == [
        (0.0, TrialState.COMPLETE),
        (0.5, TrialState.COMPLETE),
        (2.25, TrialState.FAIL),
    ]
    rest = asked(found)
    assert len(rest) == 3
    assert rest[0] == 1.5  # the one starting point without a result
    assert not {0.0, 0.5, 2.25} & set(rest)


def test_a_trial_with_a_result_that_the_driver_could_not_tell(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    asked(sweep(journal(file), trials=3))
    after = sweep(journal(file), trials=3, finished=finished(*STARTS))
    assert asked(after) == []
    tell(after, *STARTS)
    assert [trial.value for trial in optuna_trials(journal(file))] == [objective(alpha) for alpha in STARTS]


def test_a_driver_killed_while_it_asked_loses_no_trial(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    sweep(journal(file), trials=5)
    optuna.load_study(study_name="sweep", storage=journal(file)).ask()  # alpha = 0 taken, not yet suggested
    after = sweep(journal(file), trials=5)
    alphas = asked(after)
    assert len(alphas) == 5
    assert sorted(alphas[:3]) == STARTS
    assert states(journal(file))[TrialState.FAIL] == 1


def test_a_trial_that_failed_runs_again_and_its_score_counts(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(journal(file), trials=5)
    asked(before, 3)
    tell(before, 0.0, 1.5)
    before.tell("alpha=0.5", None)  # its worker died

    after = sweep(journal(file), trials=5, finished=finished(0.0, 1.5))
    again = asked(after)
    assert (again[0], len(again)) == (0.5, 3)
    tell(after, *again)
    values = [(t.params["alpha"], t.value) for t in optuna_trials(journal(file)) if t.state == TrialState.COMPLETE]
    assert sorted(values) == sorted((alpha, objective(alpha)) for alpha in (0.0, 1.5, *again))
    assert sweep(journal(file), trials=5, finished=finished(0.0, 1.5, *again)).remaining == 0
    assert asked(sweep(journal(file), trials=5, finished=finished(0.0, 1.5, *again[1:]))) == [0.5]  # failed once more


def test_a_lock_that_a_killed_driver_left_does_not_block(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    asked(sweep(journal(file)), 1)
    Path(f"{file}.lock").touch()
    assert asked(sweep(journal(file)), 1) == [0.0]


def test_the_same_seed_makes_the_same_suggestions_resumed_or_not(tmp_path: Path) -> None:
    def drive(file: Path, resume: bool) -> list[float]:
        alphas: list[float] = []
        found = sweep(journal(file), trials=9)
        while (parameters := found.ask()) is not None:
            alphas.append(parameters["alpha"])
            tell(found, alphas[-1])
            if resume:
                found = sweep(journal(file), trials=9, finished=finished(*alphas))
        return alphas

    whole = drive(tmp_path / "whole", resume=False)
    assert drive(tmp_path / "resumed", resume=True) == whole
    assert len(set(whole)) == 9
    other = sweep(trials=4, seed=1)
    assert asked(other)[3] != asked(sweep(trials=4))[3]


def test_more_trials_than_in_the_launch_before(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    before = sweep(journal(file), trials=2)
    alphas = asked(before)
    tell(before, *alphas)
    after = sweep(journal(file), trials=5, finished=finished(*alphas))
    more = asked(after)
    assert len(more) == 3
    assert more[0] == 1.5
