"""Proposals near good weights: deterministic, within their range, and led by the scores."""

from __future__ import annotations

import math

import numpy as np
import pytest

from search_spaces import SAMPLERS, ilr, refined

CENTRE = [1.0, 2.0, 0.5]
KNOWN = [(CENTRE, 0.0), ([1.0, 1.0, 1.0], 1.0), ([1.0, 4.0, 0.2], 0.4), ([100.0, 1.0, 0.01], 9.0)]


def tune_search(seed: int) -> object:
    from ray.tune.search.optuna import OptunaSearch

    return OptunaSearch(seed=seed)


def search_without_seed() -> object:
    return no_search(0)


def no_search(seed: int) -> object:
    return seed


def tune_search_that_takes_no_scores(seed: int) -> object:
    from ray.tune.search import Searcher

    class Forgetful(Searcher):
        def set_search_properties(self, *_: object, **__: object) -> bool:
            return True

        suggest = on_trial_complete = Searcher.suggest

    return Forgetful(metric="score", mode="min")


HERE = "tests.search_spaces.test_refinement"
OWN = ["optuna.samplers:TPESampler", f"{HERE}:tune_search"]


@pytest.mark.parametrize("sampler", [*SAMPLERS, *OWN])
def test_the_same_arguments_give_the_same_proposals_within_the_span(sampler: str) -> None:
    one, two, other = (refined(CENTRE, KNOWN, 4, sampler, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one.sum(axis=1), 3)
    assert np.abs(ilr(one) - ilr(np.array(CENTRE))).max() <= math.log(8) + 1e-9
    assert len(np.unique(one.round(9), axis=0)) == 4


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_a_model_comes_closer_to_the_best_than_chance(sampler: str) -> None:
    best, rng = np.array([0.7, -0.9]), np.random.default_rng(0)

    def score(w: np.ndarray) -> float:
        return float(((ilr(w) - best) ** 2).sum() + 0.05 * rng.normal())

    def found(name: str) -> float:
        known = [(w, score(w)) for w in np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.5], [0.3, 1.0, 2.0]])]
        for batch in range(3):
            known += [(w, score(w)) for w in refined([1.0, 1.0, 1.0], known, 4, name, batch)]
        return float(np.mean(sorted(s for _, s in known)[:3]))

    assert found(sampler) < found("random")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sampler": "grid"}, "sampler: expected auto, gp, tpe, random or 'package.module:name', got 'grid'"),
        ({"sampler": "no_module:Sampler"}, "sampler: .* No module named 'no_module'"),
        ({"sampler": "optuna.samplers:Missing"}, "sampler: .*AttributeError"),
        ({"sampler": "optuna.samplers:__all__"}, "sampler: .* a class or function that takes seed"),
        ({"sampler": f"{HERE}:search_without_seed"}, "sampler: .* a class or function that takes seed"),
        ({"sampler": f"{HERE}:no_search"}, "sampler: expected a sampler of Optuna or .*, got 0"),
        (
            {"sampler": f"{HERE}:tune_search_that_takes_no_scores"},
            "add_evaluated_point, .*, got Forgetful",
        ),
        ({"count": 0}, "count"),
        ({"span": 1.0}, "span"),
        ({"centre": [1.0, -1.0]}, "centre"),
        ({"centre": [1.0]}, "centre"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        refined(**({"centre": CENTRE, "known": KNOWN, "count": 4} | arguments))  # type: ignore[arg-type]
