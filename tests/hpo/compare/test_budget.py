"""The expected best of k points by enumeration, its band by simulation, and the savings by hand."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opda.nonparametric import EmpiricalDistribution
from statsmodels.stats.proportion import proportion_confint

from hpo.compare import best_of_k, expected_best, match
from hpo.compare.budget import EXACT_BANDS, EXACT_SIZES, budget, sizes
from tests.helpers.compare_tables import NAN, compared, row


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=7))
def test_expected_best_by_enumeration_of_all_subsets(scores: list[int]) -> None:
    for k, found in enumerate(expected_best(scores), 1):
        subsets = list(itertools.combinations(scores, k))
        assert found == pytest.approx(sum(map(min, subsets)) / len(subsets), abs=1e-9)


@given(st.lists(st.floats(-50, 50), min_size=30, max_size=30))
@settings(max_examples=20)
def test_expected_best_is_opda_s_unbiased_estimate(scores: list[float]) -> None:
    oracle = EmpiricalDistribution(scores).u_tuning_curve(np.arange(1, 31), minimize=True)
    assert expected_best(scores) == pytest.approx(oracle, abs=1e-9)


def test_expected_best_of_many_points() -> None:
    found = expected_best(np.random.default_rng(0).normal(size=2000))
    assert len(found) == len(sizes(2000)) < 1100
    assert np.isfinite(found).all()
    assert (np.diff(found) < 1e-12).all()
    y = np.sort(np.random.default_rng(0).normal(size=2000))
    assert found[[0, -1]] == pytest.approx([y.mean(), y[0]])
    exact = sum(float(v) * math.comb(2000 - i, 99) for i, v in enumerate((int(x * 2**40) for x in y), 1))
    assert found[99] == pytest.approx(exact / 2**40 / math.comb(2000, 100), rel=1e-6)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12), st.integers(-10, 10))
@settings(max_examples=50)
def test_match_by_brute_force(scores: list[int], score: int) -> None:
    expected = expected_best(scores)
    k = range(1, len(scores) + 1)
    curve = pd.DataFrame({"k": k, "expected": expected, "low": expected - 1.5, "high": expected + 1.5})

    def first(column: str) -> int:
        return next((k for k, value in enumerate(curve[column], 1) if value <= score + 1e-12), len(scores))

    found = match(curve, float(score), hits=sum(x <= score for x in scores))
    even = as_likely_as_not(sum(x <= score for x in scores), len(scores))
    assert (found["k"], found["k_high"]) == (first("expected"), first("high"))
    assert found["k_low"] == min(first("low"), even)
    assert found["beyond"] == (min(scores) > score)


def as_likely_as_not(hits: int, n: int) -> int:
    """The fewest draws of which one is as good with probability 1/2, if as many points are as the data allow."""
    share = 1.0 if hits == n else proportion_confint(hits, n, alpha=0.05, method="beta")[1]
    return next(k for k in itertools.count(1) if 1 - (1 - share) ** k >= 0.5 - 1e-12)


def test_a_score_that_no_point_matches_is_beyond() -> None:
    curve = best_of_k([3.0, 1.0, 2.0])
    assert match(curve, 0.9, hits=0) == {"k": 3, "k_low": as_likely_as_not(0, 3), "k_high": 3, "beyond": True}
    assert match(curve, 1.0, hits=1)["k"] == 3
    assert match(curve, 1.0, hits=1)["beyond"] is False
    assert match(curve, 2.0, hits=2)["k"] == 1  # the mean of one point
    many = best_of_k(np.arange(60.0))
    beyond = match(many, -1.0, hits=0)
    assert (beyond["k"], beyond["k_high"], beyond["beyond"]) == (60, 60, True)
    assert beyond["k_low"] == as_likely_as_not(0, 60) == math.ceil(math.log(2) / -math.log(0.025 ** (1 / 60)))


@pytest.mark.parametrize("n", [0, 1, 999, EXACT_SIZES, EXACT_SIZES + 1, 1234, 10_000])
def test_a_curve_has_every_size_up_to_1000_and_then_every_hundredth_up_to_the_last(n: int) -> None:
    k = sizes(n)
    assert list(k[:EXACT_SIZES]) == list(range(1, min(n, EXACT_SIZES) + 1))
    far = k[EXACT_SIZES - 1 :]
    assert (np.diff(far) >= 1).all()
    assert (far[1:] / far[:-1] < 1.011).all()
    assert n == 0 or k[-1] == n


def test_a_match_among_thousands_of_points_is_a_size_of_the_curve() -> None:
    y = np.random.default_rng(0).normal(size=3000)
    curve = best_of_k(y)
    score = float(np.sort(y)[1])
    found = match(curve, score, hits=2)
    at = curve.loc[curve["k"] == found["k"], "expected"]
    assert at.item() <= score
    assert (curve.loc[curve["k"] < found["k"], "expected"] > score).all()
    assert EXACT_SIZES < found["k"] < 3000
    assert match(curve, -9.0, hits=0)["k_high"] == 3000


@pytest.mark.parametrize("n", [1, 2, 3, 12, EXACT_BANDS + 1])
def test_the_band_holds_the_curve(n: int) -> None:
    for seed in range(4 if n <= 12 else 1):
        curve = best_of_k(np.random.default_rng(seed).normal(size=n))
        assert list(curve["k"]) == list(range(1, n + 1))
        assert (curve["low"] <= curve["expected"]).all()
        assert (curve["expected"] <= curve["high"] + 1e-12).all()
        for column in ("expected", "low", "high"):
            assert (np.diff(curve[column]) <= 1e-9).all()
    if n > 2:
        assert curve["low"][0] < curve["expected"][0] - 0.1
        assert curve["high"][0] > curve["expected"][0] + 0.1


def test_ties_and_no_points() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        curve = best_of_k([1.0, 1.0, 2.0, 2.0, 2.0])
        same = best_of_k([1.0, 1.0, 1.0])
    assert warned == []
    assert (curve["low"] <= curve["expected"]).all()
    assert (curve["expected"] <= curve["high"]).all()
    assert np.allclose(same[["expected", "low", "high"]], 1.0)
    assert best_of_k([]).empty
    assert list(best_of_k([]).columns) == list(curve.columns)


@pytest.mark.parametrize(("n", "method"), [(30, "ld_equal_tailed"), (EXACT_BANDS + 20, "ks")])
def test_the_band_is_opda_s(n: int, method: str) -> None:
    y = np.random.default_rng(1).normal(size=n)
    few, _, many = EmpiricalDistribution.confidence_bands(
        y, 0.95, a=y.min(), b=y.max(), method=method, generator=np.random.default_rng(0), n_jobs=1
    )
    curve, k = best_of_k(y), np.arange(1, n + 1)
    np.testing.assert_allclose(curve["high"], few.average_tuning_curve(k, minimize=True))
    np.testing.assert_allclose(
        curve["low"], np.minimum(many.average_tuning_curve(k, minimize=True), expected_best(y))
    )


# --- what the band covers: its levels depend on n alone, so that both ends are linear in the sorted scores

POINTS = 20


@cache
def ends() -> tuple[np.ndarray, np.ndarray]:
    """Matrices that make low and high, for k = 1 .. 20, from 20 sorted scores."""
    random = np.random.default_rng(0)
    samples = np.sort(random.normal(size=(POINTS + 2, POINTS)), axis=1)
    curves = [best_of_k(sample) for sample in samples]
    found = [np.stack([curve[end] for curve in curves]) for end in ("low", "high")]
    low, high = (np.linalg.solve(samples[:POINTS], end[:POINTS]) for end in found)
    for matrix, end in zip((low, high), found, strict=True):
        np.testing.assert_allclose(samples[POINTS:] @ matrix, end[POINTS:], atol=1e-4)
    return low, high


K = np.arange(1, POINTS + 1)
DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], np.ndarray]] = {
    "uniform": (lambda random, shape: random.random(shape), 1 / (K + 1)),
    "exponential": (lambda random, shape: random.exponential(size=shape), 1 / K),
    "no bound below": (lambda random, shape: -random.exponential(size=shape), -np.cumsum(1 / K)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_the_band_covers(name: str) -> None:
    """The upper end for all k; the lower end for small k only, as no better point than the best one seen is known."""
    draw, truth = DISTRIBUTIONS[name]
    scores = np.sort(draw(np.random.default_rng(7), (3000, POINTS)), axis=1)
    below, above = (scores @ matrix for matrix in ends())
    high = (truth <= above).all(axis=1).mean()
    low = (below <= truth + 1e-12).mean(axis=0)
    assert high > 0.95
    if name == "no bound below":
        assert low[:2].min() > 0.95
    else:
        assert low[: POINTS // 4].min() > 0.95
        few = POINTS // 4
        both = (below[:, :few] <= truth[:few]).all(axis=1) & (truth[:few] <= above[:, :few]).all(axis=1)
        assert both.mean() > 0.93
    assert (np.diff(low) < 0.01).all()  # ever less
    assert 0.3 < low[-1] < 0.75  # and of the best of all n points it says next to nothing


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("k", [2, 5, 10, 15])
def test_seldom_do_fewer_points_than_k_low_match(name: str, k: int) -> None:
    """The score to match is the true expected best of k points, even where no point seen is as good."""
    draw, truth = DISTRIBUTIONS[name]
    score, (low, high) = float(truth[k - 1]), ends()
    enough, beyond = [], 0
    for sample in np.sort(draw(np.random.default_rng(k), (300, POINTS)), axis=1):
        curve = pd.DataFrame({"expected": expected_best(sample), "low": sample @ low, "high": sample @ high})
        curve.insert(0, "k", range(1, POINTS + 1))
        found = match(curve, score, int((sample <= score).sum()))
        enough.append(found["k_low"] <= k)
        beyond += found["beyond"]
    assert np.mean(enough) > 0.93
    if k == 15:
        assert beyond > 60


# --- what a match saves


def test_savings_by_hand() -> None:
    """Points of 1 .. 5: E_k = 3, 2, 1.5, 1.2, 1; each took 100 steps and 10 seconds."""
    static = [row(f"static/0{i}", 0, float(i), steps=100, seconds=10.0) for i in (5, 3, 1, 2)]
    static += [row("equal", 0, 4.0, steps=100, seconds=10.0)]
    sweep = [
        row("gradnorm/paper/alpha=0", 0, 7.0, steps=100, seconds=12.0),
        row("gradnorm/paper/alpha=1", 0, 1.5, steps=100, seconds=14.0),
        row("gradnorm/paper/alpha=2", 0, NAN, steps=50, seconds=4.0, status="diverged"),
        row("gradnorm/robust/alpha=1", 0, 0.5, steps=100, seconds=15.0),
    ]
    found = compared(static, sweep).budget
    assert found.curve["expected"].tolist() == pytest.approx([3, 2, 1.5, 1.2, 1])
    table = found.table.set_index("recipe")
    paper, robust = table.loc["paper"], table.loc["robust"]
    assert (paper["k"], paper["beyond"], paper["score"]) == (3, False, pytest.approx(1.5))
    assert paper[["steps_sweep", "steps_run"]].tolist() == pytest.approx([3 * 100 / 250, 3 * 100 / 100])
    assert paper[["seconds_sweep", "seconds_run"]].tolist() == pytest.approx([3 * 10 / 30, 3 * 10 / 14])
    low = paper["k_low"]
    assert 1 <= low < 3
    assert paper[["steps_sweep_low", "steps_run_low"]].tolist() == pytest.approx([low * 100 / 250, low])
    assert paper[["seconds_sweep_low", "seconds_run_low"]].tolist() == pytest.approx([low / 3, low * 10 / 14])
    assert (robust["k"], robust["beyond"]) == (5, True)
    assert robust[["steps_sweep", "seconds_run"]].tolist() == pytest.approx([5, 50 / 15])
    assert set(table.index) == {"paper", "robust"}


def test_a_point_that_diverged_costs_too() -> None:
    static = [row("static/01", 0, 1.0, seconds=10.0), row("static/02", 0, NAN, status="diverged", seconds=4.0)]
    search = compared(static, [row("gradnorm/paper/alpha=1", 0, 2.0, seconds=7.0)]).search
    (found,) = budget(search).table["seconds_run"]
    assert found == pytest.approx((10 + 4) / 1 / 7)  # one point with a score took what both took


def test_free_runs_save_nothing_that_can_be_told() -> None:
    search = compared([row("static/01", 0, 1.0)], [row("gradnorm/paper/alpha=1", 0, 2.0, seconds=0.0)]).search
    found = budget(search).table.iloc[0]
    assert math.isnan(found["seconds_run"])
    assert found["steps_run"] == pytest.approx(1.0)


def test_no_budget_without_points_or_runs() -> None:
    search = compared([row("static/01", 0, 1.0)], [row("gradnorm/paper/alpha=1", 0, 2.0)]).search
    without_points = budget(search[search["kind"] != "static"])
    assert without_points.curve.empty
    assert without_points.table.empty
    without_runs = budget(search[search["kind"] == "static"])
    assert len(without_runs.curve) == 1
    assert without_runs.table.empty
