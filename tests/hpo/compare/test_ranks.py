"""Ranks by counting, their intervals against statsmodels and against simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from hpo.compare import clopper_pearson
from hpo.compare.ranks import ranks
from tests.helpers.compare_tables import NAN, compared, points, row, run


def test_rank_by_counting_on_the_search_seed() -> None:
    points = {"equal": 4.0, "static/01": -2.0, "static/02": -1.0, "static/03": NAN, "static/04": 1.0}
    sweep = {"gradnorm/paper/alpha=0": 9.0, "gradnorm/paper/alpha=1": -1.0, "gradnorm/robust/alpha=0.5": -3.0}
    rows = [row(name, 0, value) for name, value in (points | sweep).items()]
    ranks = compared(rows).ranks.set_index("recipe")
    for recipe, alpha, best in (("paper", 1.0, -1.0), ("robust", 0.5, -3.0)):
        assert ranks.loc[recipe, "alpha"] == alpha
        assert ranks.loc[recipe, "score"] == pytest.approx(best)
        assert ranks.loc[recipe, "rank"] == 1 + sum(value < best - 1e-9 for value in points.values())
        assert ranks.loc[recipe, "points"] == 4  # the one that diverged has no rank


@pytest.mark.parametrize(("hits", "n"), [(hits, n) for n in range(1, 13) for hits in range(n + 1)])
def test_clopper_pearson_is_that_of_statsmodels(hits: int, n: int) -> None:
    for confidence in (0.95, 0.8):
        low, high = proportion_confint(hits, n, alpha=1 - confidence, method="beta")
        expected = (0.0 if hits == 0 else low, 1.0 if hits == n else high)
        assert clopper_pearson(hits, n, confidence) == pytest.approx(expected)


def test_no_draws_no_share() -> None:
    assert np.isnan(clopper_pearson(0, 0)).all()


def search(scores: list[float], score: float) -> pd.DataFrame:
    return pd.concat([points([[1.0, 1.0]] * len(scores), scores), run([1.0, 1.0], score)], ignore_index=True)


def test_random_points_stand_for_all_like_them() -> None:
    table = search([5.0, 1.0, 2.0, 3.0, 4.0], 2.5)
    table.loc[table["score"] == 1.0, "kind"] = "equal"  # was not drawn
    found = ranks(table, (1.0, 9.0), random_points=True).iloc[0]
    assert (found["rank"], found["points"]) == (3, 5)
    assert found[["better", "better_low", "better_high"]].tolist() == pytest.approx([0.25, *clopper_pearson(1, 4)])
    assert np.isnan(found["rank_low"])


def test_equal_weights_alone_are_no_sample() -> None:
    table = search([1.0], 2.0)
    table.loc[table["kind"] == "static", "kind"] = "equal"
    found = ranks(table, (1.0, 9.0), random_points=True).iloc[0]
    assert found["rank"] == 2
    assert found[["better", "better_low", "better_high"]].isna().all()


@given(st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=12), st.integers(-20, 20), st.floats(0.01, 30))
@settings(max_examples=30)
def test_the_interval_of_a_rank_holds_the_rank(scores: list[float], score: int, sigma: float) -> None:
    found = ranks(search(scores, score + 0.5), (sigma, 9.0), random_points=False).iloc[0]
    assert found["rank"] == 1 + sum(x < score + 0.5 for x in scores)
    assert 1 <= found["rank_low"] <= found["rank"] <= found["rank_high"] <= len(scores) + 1
    assert np.isnan(found["better"])


def test_without_noise_the_interval_is_the_rank() -> None:
    for sigma in (0.0, 1e-9):
        found = ranks(search([1.0, 2.0, 3.0], 2.5), (sigma, 9.0), random_points=False).iloc[0]
        assert found[["rank_low", "rank", "rank_high"]].tolist() == [3, 3, 3]


def test_no_interval_without_an_estimate_of_the_noise() -> None:
    found = ranks(search([1.0, 2.0, 3.0], 2.5), (NAN, 0.0), random_points=False).iloc[0]
    assert found["rank"] == 3
    assert np.isnan(found["rank_low"])


def test_no_run_no_rank_and_no_points_the_first() -> None:
    table = search([1.0], 2.5)
    assert ranks(table[table["kind"] == "static"], (1.0, 9.0), random_points=False).empty
    alone = ranks(table[table["kind"] == "gradnorm"], (1.0, 9.0), random_points=False).iloc[0]
    assert (alone["rank"], alone["points"]) == (1, 0)
    assert np.isnan(alone["rank_low"])


@pytest.mark.parametrize("sigma", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("score", [-0.3, 2.2, 9.7])
def test_the_interval_of_a_rank_by_simulation(sigma: float, score: float) -> None:
    scores = [0.0, 0.5, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 9.0, 12.0]
    found = ranks(search(scores, score), (sigma, 9.0), random_points=False).iloc[0]
    random = np.random.default_rng(99)
    counts = np.zeros(13)
    for _ in range(4000):
        again = random.normal(score, sigma)
        counts[1 + int((random.normal(scores, sigma) < again).sum())] += 1
    up_to = np.cumsum(counts) / counts.sum()  # share of ranks of at most 0, 1, 2, ...
    low, high = int(found["rank_low"]), int(found["rank_high"])
    slack = 0.008  # three standard errors of a share of 2.5%
    assert up_to[low - 1] <= 0.025 + slack
    assert 1 - up_to[high] <= 0.025 + slack
    assert up_to[low] >= 0.025 - slack  # and it is no wider than that takes
    assert 1 - up_to[high - 1] >= 0.025 - slack
