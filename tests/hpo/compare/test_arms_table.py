"""The table of arms, what dominates what, and where validation and test disagree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo.compare import Scoring, TaskScoring, dominated_by
from hpo.compare.arms_table import better_on_test, order_agreement
from hpo.core.arm import FIXED
from tests.helpers.compare_tables import NAN, arm, arms_by_name, compared, row


@pytest.mark.parametrize("best", ["static/01", "equal", "frozen/loss", "gradnorm_static/paper/tail"])
def test_recommended_is_the_best_arm_with_fixed_weights(best: str) -> None:
    others = ["gradnorm/paper/alpha=1", "uncertainty", "static/02", "frozen/gradient", "gradnorm_static/robust/tail"]
    rows = [arm(name, [-9.0, -9.0], [-9.0, -9.0]) for name in others[:2]]  # better, but their weights move
    rows += [arm(name, [5.0, 5.0], [-9.0, -9.0]) for name in others[2:]]
    comparison = compared(*rows, arm(best, [1.0, 1.0], [1.0, 1.0]), seeds=2)
    assert comparison.recommended == best
    assert arms_by_name(comparison)[best]["kind"] in FIXED


def test_an_arm_that_diverged_on_a_seed_is_no_best_arm() -> None:
    lucky = [row("static/01", 1, -30.0, -30.0), *(row("static/01", s, status="diverged") for s in (2, 3))]
    comparison = compared(
        lucky, arm("static/02", [2.0] * 3, [2.0] * 3), arm("gradnorm/paper/alpha=1", [0.0] * 3, [0.0] * 3)
    )
    assert (comparison.recommended, comparison.verdict.static) == ("static/02", "static/02")
    assert comparison.alarms[0] == "2 trials (static/01) diverged"
    alone = compared(lucky)
    assert alone.recommended == "static/01"  # better than none


def test_the_table_holds_means_and_intervals_over_seeds() -> None:
    val, test = [1.0, 4.0, 2.5], [2.0, -1.0, 7.0]
    rows = arm("static/01", val, test, **{"train/error": 0.5, "train/accuracy": 0.8}, steps=70, seconds=7.0)
    comparison = compared(rows, arm("gradnorm/paper/alpha=1", [0.0] * 3, [0.0, 1.0, 2.0]))
    found = arms_by_name(comparison)["static/01"]
    bounds = stats.ttest_1samp(test, 0).confidence_interval(0.95)
    expected = [3, np.mean(val), np.mean(test), bounds.low, bounds.high, 70, 7]
    columns = ["seeds", "score_val", "score_test", "low", "high", "steps", "seconds"]
    assert found[columns].tolist() == pytest.approx(expected)
    assert found["test/error"] == pytest.approx(1 + np.mean(test) / 100)
    assert found["val/accuracy"] == pytest.approx(1 - np.mean(val) / 100)
    assert (found["train/error"], found["train/accuracy"]) == pytest.approx((0.5, 0.8))
    assert found["chosen"] == 1  # the only arm of its side
    assert arms_by_name(comparison)["gradnorm/paper/alpha=1"]["alpha"] == 1


def test_the_share_of_resamples_is_that_of_the_selection() -> None:
    rows = [arm("static/01", [0.0, 0.0, 9.0], [0.0] * 3), arm("static/02", [1.0, 1.0, 1.0], [0.0] * 3)]
    rows += [arm(name, [0.0] * 3, [0.0] * 3) for name in ("gradnorm/paper/alpha=1", "uncertainty")]
    found = arms_by_name(compared(*rows))
    assert found["static/01"]["chosen"] == pytest.approx((2 / 3) ** 3, abs=0.03)  # seed 3 must not be drawn
    assert found["static/01"]["chosen"] + found["static/02"]["chosen"] == pytest.approx(1)
    assert np.isnan(found["uncertainty"]["chosen"])


def arms_of(costs: list[tuple[float, ...]], kinds: list[str], scoring: Scoring) -> pd.DataFrame:
    rows = [
        {"arm": f"{kind}/{i}", "kind": kind, "score_test": sum(cost)}
        | {f"test/{task}": how.direction * x for (task, how), x in zip(scoring.items(), cost, strict=True)}
        for i, (cost, kind) in enumerate(zip(costs, kinds, strict=True))
    ]
    return pd.DataFrame(rows)


@given(st.data(), st.integers(1, 3), st.integers(1, 8))
def test_dominance_by_brute_force(data: st.DataObject, T: int, n: int) -> None:
    scoring = Scoring({f"t{i}": TaskScoring(data.draw(st.sampled_from([1, -1]))) for i in range(T)})
    number = st.one_of(st.integers(0, 3).map(float), st.just(NAN))
    costs = data.draw(st.lists(st.tuples(*[number] * T), min_size=n, max_size=n))
    kinds = data.draw(st.lists(st.sampled_from(["static", "gradnorm", "single_task"]), min_size=n, max_size=n))
    found = dominated_by(arms_of(costs, kinds, scoring), scoring)
    for i in range(n):
        usable = [k for k in range(n) if kinds[k] != "single_task" and all(np.isfinite(costs[k]))]
        dominators = {
            f"{kinds[k]}/{k}": sum(costs[k])
            for k in usable
            if i in usable
            and all(a <= b for a, b in zip(costs[k], costs[i], strict=True))
            and any(a < b for a, b in zip(costs[k], costs[i], strict=True))
        }
        if dominators:
            assert dominators[found[i]] == min(dominators.values())
        else:
            assert found[i] == ""


def test_dominance_in_the_table_of_a_study() -> None:
    def metrics(error: float, accuracy: float) -> dict[str, float]:
        return {"test/error": error, "test/accuracy": accuracy}

    rows = {
        "static/01": metrics(1.0, 0.9),
        "static/02": metrics(0.9, 0.9),  # as accurate as 01, fewer errors
        "equal": metrics(2.0, 0.99),  # the most accurate
        "gradnorm/paper/alpha=1": metrics(2.1, 0.8),
    }
    comparison = compared(*[arm(name, [0.0] * 3, [0.0] * 3, **more) for name, more in rows.items()])
    found = {name: one["dominated_by"] for name, one in arms_by_name(comparison).items() if "single" not in name}
    assert found == {"static/01": "static/02", "static/02": "", "equal": "", "gradnorm/paper/alpha=1": "static/02"}


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=9))
def test_agreement_is_scipy_s_spearman(pairs: list[tuple[int, int]]) -> None:
    val, test = (np.array(one, dtype=float) for one in zip(*pairs, strict=True))
    arms = pd.DataFrame({"score_val": [*val, NAN, 3.0], "score_test": [*test, 1.0, NAN]})
    if np.ptp(val) == 0 or np.ptp(test) == 0:
        assert np.isnan(order_agreement(arms))
    else:
        assert order_agreement(arms) == pytest.approx(stats.spearmanr(val, test).statistic)


def test_two_arms_have_no_order_to_agree_on() -> None:
    assert np.isnan(order_agreement(pd.DataFrame({"score_val": [1.0, 2.0, NAN], "score_test": [1.0, 2.0, 3.0]})))


def planted(gain: float, others: int = 4, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Arms and confirm trials of a study where static/02 is better on test by ``gain`` than all others."""
    random = np.random.default_rng(seed)
    common = random.normal(0, 5, 6)
    true = {"static/01": 0.0, "static/02": -gain} | {f"static/1{i}": 0.0 for i in range(others)}
    tables = [
        pd.DataFrame({"arm": name, "seed": range(6), "score_test": common + level + random.normal(0, 0.5, 6)})
        for name, level in true.items()
    ]
    return pd.DataFrame({"arm": list(true), "kind": "static"}), pd.concat(tables)


def test_an_arm_that_test_calls_better_is_found() -> None:
    arms, confirm = planted(gain=5.0)
    found, regret = better_on_test(arms, confirm, FIXED, "static/01")
    pair = [confirm.loc[confirm["arm"] == name, "score_test"].to_numpy() for name in ("static/02", "static/01")]
    assert found == "static/02"
    assert regret == pytest.approx(np.mean(pair[0] - pair[1]))
    assert better_on_test(arms, confirm, FIXED, "static/02") == ("", 0.0)  # that one is the best
    assert better_on_test(arms, confirm, ("gradnorm",), "static/01") == ("", 0.0)  # not of a kind asked for


def test_the_level_is_shared_among_all_arms() -> None:
    """One arm whose own 95% interval lies below 0, its Bonferroni interval does not."""
    for seed in range(50):
        arms, confirm = planted(gain=0.7, seed=seed)
        pair = [confirm.loc[confirm["arm"] == name, "score_test"].to_numpy() for name in ("static/02", "static/01")]
        difference = stats.ttest_rel(*pair)
        found = better_on_test(arms, confirm, ["static"], "static/01")[0]
        strict = difference.statistic < 0 and difference.pvalue < 0.05 / 5
        assert (found == "static/02") == strict or found.startswith("static/1")


def test_equal_arms_seldom_seem_better_on_test() -> None:
    alarms = sum(bool(better_on_test(*planted(gain=0.0, seed=seed), FIXED, "static/01")[0]) for seed in range(100))
    assert alarms <= 8  # of 100 expected at most 2.5
