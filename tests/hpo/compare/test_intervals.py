"""Intervals, words and numbers of seeds against scipy's and statsmodels' tests, and against simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from hpo.compare import interval, judge, regret, seeds_needed
from hpo.compare.intervals import MOST_SEEDS
from tests.helpers.compare_tables import NAN

finite = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 4))


samples = st.lists(finite, min_size=2, max_size=12).filter(lambda x: np.std(x) > 1e-3)


@given(samples, st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_that_of_the_t_test(values: list[float], confidence: float) -> None:
    oracle = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    found = interval(values, confidence)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), oracle.low, oracle.high))
    assert found.seeds == len(values)


@given(samples.flatmap(lambda a: st.tuples(st.just(a), st.lists(finite, min_size=len(a), max_size=len(a)))))
def test_regret_is_paired_by_seed(pairs: tuple[list[float], list[float]]) -> None:
    a, b = pairs
    assume(np.std(np.subtract(a, b)) > 1e-3)
    ours = pd.DataFrame({"seed": range(len(a)), "score_test": a})
    static = pd.DataFrame({"seed": range(len(b)), "score_test": b}).iloc[::-1]  # in another order
    oracle = stats.ttest_rel(a, b).confidence_interval(0.95)
    found = interval(regret(ours, static, "test"))
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))


def test_regret_needs_both_arms_on_a_seed() -> None:
    ours = pd.DataFrame({"seed": [1, 2, 3], "score_test": [5.0, 6.0, NAN]})
    static = pd.DataFrame({"seed": [2, 3, 4], "score_test": [4.0, 1.0, 1.0]})
    assert regret(ours, static, "test").to_dict() == {2: 2.0}


@given(samples, st.floats(0.01, 50))
def test_the_four_words_are_decided_by_scipy_s_t_tests(values: list[float], margin: float) -> None:
    above = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, alternative="less").pvalue
    difference = stats.ttest_1samp(values, 0).pvalue
    assume(min(abs(p - 0.05) for p in (above, below, difference)) > 1e-9)
    if max(above, below) < 0.05:
        expected = "equivalent"
    elif difference < 0.05:
        expected = "better" if np.mean(values) < 0 else "worse"
    else:
        expected = "inconclusive"
    assert judge(interval(values), margin) == expected


def test_one_seed_decides_nothing() -> None:
    assert judge(interval([]), 1.0) == judge(interval([-50.0]), 1.0) == "inconclusive"
    assert interval([3.0])[0] == 3.0
    assert np.isnan(interval([3.0])[1:3]).all()
    assert np.isnan(interval([])[:3]).all()


def test_differences_without_any_spread() -> None:
    assert [judge(interval([d, d, d]), 1.0) for d in (0.0, 0.5, -2.0, 2.0)] == [
        "equivalent",
        "equivalent",
        "better",
        "worse",
    ]


def test_the_interval_covers_the_truth_in_95_of_100_studies() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        seed_effect = random.normal(0, 5, 4)  # common to both arms: pairing takes it away
        ours, static = (pd.DataFrame({"seed": range(4), "score_test": seed_effect + random.normal(0, 1, 4)})
                        for _ in range(2))  # fmt: skip
        found = interval(regret(ours, static, "test"))
        hits += found.low < 0 < found.high
        assert found.high - found.low < 20
    assert 0.93 < hits / 2000 < 0.97


@given(samples.filter(lambda x: len(x) >= 3), st.floats(0.01, 50))
def test_equivalence_is_that_of_statsmodels_tost(values: list[float], margin: float) -> None:
    static = np.linspace(-1, 1, len(values))
    p, *_ = ttost_paired(static + values, static, -margin, margin)
    assume(abs(p - 0.05) > 1e-9)
    assert (judge(interval(values), margin) == "equivalent") == (p < 0.05)


@pytest.mark.parametrize("effect", [0.1, 0.2, 0.5, 0.8, 1.0, 1.5, 2.0, 4.0])
@pytest.mark.parametrize("side", [-1, 1])
def test_seeds_for_a_difference_are_those_of_statsmodels(effect: float, side: int) -> None:
    power = TTestPower()
    s = 3.0
    expected = next(n for n in range(2, MOST_SEEDS) if power.power(effect, n, 0.05, alternative="two-sided") >= 0.8)
    assert seeds_needed(side * effect * s, s, margin=1e-6) == expected


@pytest.mark.parametrize(
    ("mean", "s", "margin"),
    [
        (-1.0, 1.0, 0.01),
        (0.8, 2.0, 0.1),
        (0.0, 1.0, 1.0),
        (0.0, 2.0, 1.0),
        (0.3, 1.0, 1.0),
        (0.5, 1.0, 1.0),
        (-0.2, 0.4, 0.6),
    ],
)
def test_with_the_seeds_needed_80_of_100_studies_give_a_verdict(mean: float, s: float, margin: float) -> None:
    n = seeds_needed(mean, s, margin)
    random = np.random.default_rng(3)

    def share(seeds: int) -> float:
        studies = random.normal(mean, s, (1500, seeds))
        return float(np.mean([judge(interval(study), margin) != "inconclusive" for study in studies]))

    assert n > 3
    assert 0.77 <= share(n) <= 0.88  # one seed more is a step of up to 0.1
    assert share(n - 1) < 0.83


def test_seeds_needed_at_its_ends() -> None:
    assert seeds_needed(0.5, 0.0, 1.0) == 2  # no scatter
    assert seeds_needed(0.01, 10.0, 0.1) == 0  # more than the most that we count
    assert seeds_needed(NAN, 1.0, 1.0) == seeds_needed(1.0, NAN, 1.0) == 0
    assert seeds_needed(0.0887, 1.0, 1e-6) == MOST_SEEDS  # by statsmodels too
    assert seeds_needed(0.0886, 1.0, 1e-6) == 0
    assert TTestPower().power(0.0886, MOST_SEEDS, 0.05) < 0.8 <= TTestPower().power(0.0887, MOST_SEEDS, 0.05)
