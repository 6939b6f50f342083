"""The comparison against independent oracles: scipy's tests, brute force, counting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from hpo.compare import AVERAGES, FIXED, Comparison, baseline, compare, distance, interval, judge, regret, score
from tests.hpo.report.builder import Builder

DIRECTIONS = {"error": 1, "accuracy": -1}
NAN = float("nan")

# --- a table whose scores are what we write down: every single-task reference is 1


def row(arm: str, seed: int, val: float = 0.0, test: float = NAN, **more: Any) -> dict[str, Any]:
    """A trial whose score is ``val`` percent on validation and ``test`` percent on test."""
    kind, *rest = arm.split("/")
    return {
        "identity": f"{arm} {seed}",
        "arm": arm,
        "phase": "confirm" if seed else "sweep" if kind == "gradnorm" else "static",
        "kind": kind,
        "recipe": rest[0] if kind.startswith("gradnorm") else "",
        "alpha": float(rest[1].removeprefix("alpha=")) if kind == "gradnorm" else NAN,
        "seed": seed,
        "status": "finished",
        "steps": 100,
        "seconds": 10.0,
        "alarms": "",
        **{f"val/{task}": 1 + d * val / 100 for task, d in DIRECTIONS.items()},
        **{f"test/{task}": 1 + d * test / 100 for task, d in DIRECTIONS.items()},
        **{f"{average}/{task}": 1.0 for average in AVERAGES for task in DIRECTIONS},
    } | more


def arm(name: str, val: Sequence[float], test: Sequence[float], **more: Any) -> list[dict[str, Any]]:
    """The confirm trials of an arm, seed by seed."""
    return [row(name, seed, *scores, **more) for seed, scores in enumerate(zip(val, test, strict=True), 1)]


def references(seeds: int) -> list[dict[str, Any]]:
    rows = []
    for task, seed in itertools.product(DIRECTIONS, range(seeds + 1)):
        phase = {"phase": "confirm" if seed else "references"}
        rows.append(row(f"single_task/{task}", seed, 0.0, 0.0 if seed else NAN, **phase))
    return rows


def compared(*rows: list[dict[str, Any]], seeds: int = 3, margin: float = 1.0) -> Comparison:
    return compare(pd.DataFrame([*references(seeds), *itertools.chain(*rows)]), DIRECTIONS, margin)


def arms_by_name(comparison: Comparison) -> dict[str, pd.Series]:
    return {str(found["arm"]): found for _, found in comparison.arms.iterrows()}


# --- the formulas, each against an oracle

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


metric = st.floats(0.1, 10)


@given(
    st.lists(st.tuples(metric, metric, metric), min_size=1, max_size=6),
    st.tuples(metric, metric, metric),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_score_by_brute_force(
    rows: list[tuple[float, ...]], reference: tuple[float, ...], signs: tuple[int, ...]
) -> None:
    tasks = ["a", "b", "c"]
    trials = pd.DataFrame(rows, columns=[f"val/{task}" for task in tasks]).assign(kind="static", status="finished")
    found = score(trials, pd.Series(reference, index=tasks), dict(zip(tasks, signs, strict=True)), "val")
    for k, metrics in enumerate(rows):
        changes = [d * (m - b) / b for m, b, d in zip(metrics, reference, signs, strict=True)]
        assert found[k] == pytest.approx(100 * sum(changes) / 3)


def test_score_of_a_negative_reference() -> None:
    trials = pd.DataFrame({"val/a": [-4.0], "kind": ["static"], "status": ["finished"]})
    assert score(trials, pd.Series({"a": -2.0}), {"a": 1}, "val").tolist() == [
        -100.0
    ]  # lower is better, twice as low


def test_score_does_not_depend_on_the_units_of_a_metric() -> None:
    trials = Builder(seeds=2, points=4).trials()
    directions = Builder().directions
    scaled = trials.assign(**{f"{split}/age": 365 * trials[f"{split}/age"] for split in ("val", "test")})
    one, two = compare(trials, directions, 1.0), compare(scaled, directions, 1.0)
    np.testing.assert_allclose(one.arms["score_test"], two.arms["score_test"])
    assert list(one.arms["arm"]) == list(two.arms["arm"])


def test_score_and_baseline_are_means_over_seeds() -> None:
    trials = pd.DataFrame(references(2))
    trials.loc[trials["arm"] == "single_task/error", "val/error"] = [4.0, 1.0, 3.0]
    confirm = trials[trials["phase"] == "confirm"]
    assert baseline(confirm, list(DIRECTIONS), "val").to_dict() == {"error": 2.0, "accuracy": 1.0}


def test_who_has_no_score() -> None:
    diverged = row("static/01", 1, -50.0, -50.0, status="diverged")
    blind = row("static/02", 1, -50.0, -50.0, **{"val/error": NAN})
    comparison = compared([diverged, blind], arm("equal", [1.0], [1.0]), seeds=1)
    assert comparison.confirm.set_index("arm")["score_val"].dropna().to_dict() == pytest.approx({"equal": 1.0})
    assert "static/01" not in set(comparison.arms["arm"])


weights = st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=6)


@given(
    weights.flatmap(lambda a: st.tuples(st.just(a), st.lists(st.floats(1e-4, 1e4), min_size=len(a), max_size=len(a))))
)
def test_distances_by_their_definitions(pair: tuple[list[float], list[float]]) -> None:
    a, b = pair
    T = len(a)
    pairs = [math.log(a[i] / a[j]) - math.log(b[i] / b[j]) for i in range(T) for j in range(T)]
    x, y = [[T * w / sum(v) for w in v] for v in (a, b)]
    found = distance(a, b)
    assert found.aitchison == pytest.approx(math.sqrt(sum(p * p for p in pairs) / (2 * T)), abs=1e-6)
    assert found.l2 == pytest.approx(math.dist(x, y), abs=1e-9)
    assert found.factor == pytest.approx(max(max(p / q, q / p) for p, q in zip(x, y, strict=True)))


def test_distances_do_not_see_scale_or_side() -> None:
    a, b = np.array([0.1, 1.0, 1.9]), np.array([1.5, 0.5, 1.0])
    assert distance(7 * a, b) == pytest.approx(distance(a, b))
    assert distance(a, 0.01 * b) == pytest.approx(distance(a, b))
    assert distance(b, a) == pytest.approx(distance(a, b))
    assert distance(a, 3 * a) == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)


# --- verdicts

STATIC = [0.0, 0.2, -0.2, 0.1]
OURS = {
    "better": [-5.0, -4.0, -6.0, -4.5],
    "worse": [5.0, 4.0, 6.0, 4.5],
    "equivalent": [0.1, 0.2, -0.1, 0.0],
    "inconclusive": [-9.0, 8.0, -7.0, 6.0],
}


@pytest.mark.parametrize("word", OURS)
def test_verdict(word: str) -> None:
    ours = "gradnorm_static/robust/tail"
    comparison = compared(arm("static/01", STATIC, STATIC), arm(ours, STATIC, OURS[word]), seeds=4)
    verdict = comparison.verdict
    assert (verdict.kind, verdict.arm, verdict.static, verdict.reason) == (word, ours, "static/01", "")
    oracle = stats.ttest_rel(OURS[word], STATIC)
    bounds = oracle.confidence_interval(0.95)
    mean = float(np.mean(np.subtract(OURS[word], STATIC)))
    assert verdict.regret == pytest.approx((mean, bounds.low, bounds.high, 4))
    found = arms_by_name(comparison)
    assert found[ours][["regret", "regret_low", "regret_high"]].tolist() == pytest.approx([mean, *bounds])
    assert (found[ours]["verdict"], found["static/01"]["verdict"]) == (word, "")


def test_the_margin_decides_what_is_equivalent() -> None:
    ours = arm("gradnorm/paper/alpha=1", STATIC, [x + 2 for x in STATIC])
    kinds = [compared(arm("equal", STATIC, STATIC), ours, seeds=4, margin=m).verdict.kind for m in (1.0, 3.0)]
    assert kinds == ["worse", "equivalent"]


def test_no_verdict_says_why() -> None:
    ours, static = arm("gradnorm/paper/alpha=1", [0.0, 1.0], [0.0, 1.0]), arm("static/01", [0.0, 1.0], [0.0, 1.0])
    reasons = [compared(*rows, seeds=2).verdict for rows in ([], [ours], [static])]
    assert [(v.kind, v.reason) for v in reasons] == [
        ("none", "no static arm has a score on the confirm seeds"),
        ("none", "no static arm has a score on the confirm seeds"),
        ("none", "no GradNorm arm has a score on the confirm seeds"),
    ]
    apart = [row("gradnorm/paper/alpha=1", 1, 0.0, 0.0), row("static/01", 2, 0.0, 0.0)]
    verdict = compared(apart, seeds=2).verdict
    assert (verdict.kind, verdict.reason) == ("none", "no seed has a test score of both arms")


def test_the_interval_counts_the_seeds_that_both_arms_have() -> None:
    comparison = compared(
        arm("static/01", [0.0, 1.0, 2.0], [0.0, 1.0, 2.0])[:2], arm("gradnorm/paper/alpha=1", [0, 1, 2], [1, 3, 2])
    )
    assert comparison.verdict.regret.seeds == 2
    assert comparison.verdict.regret.mean == pytest.approx(1.5)


def test_selection_is_on_validation_and_the_reading_on_test() -> None:
    comparison = compared(
        arm("static/01", [-5.0, -4.0, -6.0], [3.0, 3.5, 2.5]),
        arm("static/02", [-1.0, -2.0, 0.0], [-9.0, -9.5, -8.5]),  # better on test, not chosen
        arm("gradnorm/paper/alpha=1", [-4.0, -3.0, -5.0], [1.0, 1.5, 0.5]),
        arm("gradnorm/robust/alpha=1", [2.0, 1.0, 3.0], [-20.0, -19.0, -21.0]),  # likewise
    )
    assert (comparison.verdict.static, comparison.verdict.arm) == ("static/01", "gradnorm/paper/alpha=1")
    assert comparison.recommended == "static/01"
    assert comparison.verdict.regret.mean == pytest.approx(-2.0)
    assert comparison.verdict.kind == "better"
    found = arms_by_name(comparison)
    assert [name for name, one in found.items() if one["best_static"]] == ["static/01"]
    assert found["static/02"]["regret"] == pytest.approx(-12.0)
    assert list(comparison.arms["arm"])[:2] == ["static/01", "gradnorm/paper/alpha=1"]


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


# --- what else the report shows


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


def test_the_search_is_sorted_and_keeps_those_without_a_score_last() -> None:
    rows = [row(n, 0, v) for n, v in {"equal": 2.0, "static/01": NAN, "static/02": -1.0}.items()]
    search = compared(rows).search
    assert list(search["arm"])[:2] == ["static/02", "equal"]
    assert search["score"].iloc[:2].tolist() == pytest.approx([-1.0, 2.0])
    assert search["score"].iloc[2:].isna().all()


def weighted(name: str, seed: int, val: float, w: Mapping[str, Sequence[float]] | Sequence[float]) -> dict[str, Any]:
    by_average = w if isinstance(w, Mapping) else dict.fromkeys(AVERAGES, w)
    columns = {f"{a}/{task}": x for a, ws in by_average.items() for task, x in zip(DIRECTIONS, ws, strict=True)}
    return row(name, seed, val, val if seed else NAN, **columns)


def test_distances_are_those_of_the_best_alpha_to_the_best_static_point() -> None:
    averages = {"arithmetic": [0.5, 1.5], "geometric": [0.4, 1.6], "tail": [1.0, 1.0]}
    comparison = compared(
        [weighted("static/01", s, -1.0, [0.2, 1.8]) for s in range(4)],
        [weighted("static/02", s, 3.0, [1.8, 0.2]) for s in range(4)],
        [weighted("gradnorm/paper/alpha=2", 0, -2.0, averages), weighted("gradnorm/paper/alpha=1", 0, 5.0, [1, 1])],
    )
    found = comparison.distances.set_index("average")
    assert list(found.index) == list(AVERAGES)
    for average, w in averages.items():
        expected = distance(w, [0.2, 1.8])
        assert found.loc[average, ["aitchison", "l2", "factor"]].tolist() == pytest.approx(list(expected))
        assert found.loc[average, ["w/error", "w/accuracy"]].tolist() == pytest.approx(w)
        assert found.loc[average, "alpha"] == 2.0


def test_the_weights_of_an_arm_are_the_geometric_mean_over_seeds() -> None:
    rows = [weighted("frozen/loss", 1, 0.0, [0.2, 1.8]), weighted("frozen/loss", 2, 0.0, [1.6, 0.4])]
    found = arms_by_name(compared(rows, seeds=2))
    mean = np.sqrt(np.multiply([0.2, 1.8], [1.6, 0.4]))
    assert found["frozen/loss"][["w/error", "w/accuracy"]].tolist() == pytest.approx((2 * mean / mean.sum()).tolist())


def test_a_single_task_arm_has_no_weights_of_a_ratio() -> None:
    rows = [weighted("single_task/extra", 1, 0.0, [0.0, 2.0])]
    assert np.isnan(arms_by_name(compared(rows))["single_task/extra"]["w/error"])


def test_cost_adds_up_what_the_search_took() -> None:
    static = [row(f"static/0{i}", 0, steps=100, seconds=10.0) for i in range(1, 5)]
    sweep = [row(f"gradnorm/paper/alpha={a}", 0, steps=100, seconds=12.0) for a in (0, 1)]
    sweep += [row("gradnorm/paper/alpha=9", 0, steps=20, seconds=2.0, status="diverged")]
    sweep += [row("gradnorm/robust/alpha=1", 0, steps=100, seconds=14.0)]
    confirm = arm("gradnorm/paper/alpha=1", [0.0] * 3, [0.0] * 3, steps=5000, seconds=999.0)  # counts for nobody
    cost = compared(static, sweep, confirm).cost.set_index("way")
    expected = {
        "static search": (4, 400, 40.0),
        "GradNorm, all alpha sweeps": (4, 320, 40.0),
        "GradNorm paper, alpha sweep": (3, 220, 26.0),
        "GradNorm robust, alpha sweep": (1, 100, 14.0),
        "GradNorm paper, one run": (1, 100, 12.0),
        "GradNorm robust, one run": (1, 100, 14.0),
    }
    assert {way: (c["trials"], c["steps"], c["seconds"]) for way, c in cost.iterrows()} == expected
    for way, (_, steps, seconds) in expected.items():
        assert cost.loc[way, ["steps_ratio", "seconds_ratio"]].tolist() == pytest.approx([steps / 400, seconds / 40])


def test_a_task_without_a_reference_is_left_out_with_an_alarm() -> None:
    trials = pd.DataFrame([*references(3), *arm("equal", [2.0] * 3, [2.0] * 3)])
    trials.loc[trials["arm"] == "single_task/error", "status"] = "diverged"
    trials.loc[trials["arm"] == "equal", "test/accuracy"] = 0.96  # 4 percent worse
    comparison = compare(trials, DIRECTIONS, 1.0)
    assert arms_by_name(comparison)["equal"]["score_test"] == pytest.approx(4.0)
    rest = "the single-task reference of error did not finish, so the task is left out of every score there"
    assert {f"search seeds: {rest}", f"confirm seeds: {rest}"} <= set(comparison.alarms)


def test_a_reference_of_zero_is_left_out_with_an_alarm() -> None:
    trials = pd.DataFrame([*references(3), *arm("equal", [2.0] * 3, [2.0] * 3)])
    trials.loc[trials["arm"] == "single_task/error", ["val/error", "test/error"]] = 0.0
    comparison = compare(trials, DIRECTIONS, 1.0)
    assert arms_by_name(comparison)["equal"]["score_test"] == pytest.approx(2.0)
    rest = "the single-task reference of error is 0, so the task is left out of every score there"
    assert {f"search seeds: {rest}", f"confirm seeds: {rest}"} <= set(comparison.alarms)


def test_alarms() -> None:
    assert compared(arm("equal", [0.0] * 3, [0.0] * 3)).alarms == ()
    rows = [row(f"static/0{i}", 0, status="failed") for i in range(1, 8)]
    rows += [row("static/08", 0, alarms="no GPU\nslow"), row("static/09", 0, alarms="slow")]
    comparison = compared(rows, [row("equal", 1, 0.0, 0.0, steps=50)], seeds=1)
    assert comparison.alarms == (
        "7 trials (static/01, static/02, static/03, static/04 and 3 more arms) failed",
        "only 1 seed(s): no interval is worth much below 3",
        "arms took unequal numbers of steps: [50, 100]",
        "1 trial (static/08): no GPU",
        "2 trials (static/08, static/09): slow",
    )


@pytest.mark.parametrize("word", ["better", "equivalent", "worse"])
@pytest.mark.parametrize("T", [2, 5])
def test_a_study_of_many_tasks(word: str, T: int) -> None:
    """On the report's made-up study, whose metrics have both directions and many scales."""
    builder = Builder(T=T, verdict=word, points=8, diverged=())
    comparison = compare(builder.trials(), builder.directions, 1.0)
    assert comparison.verdict.kind == word
    assert comparison.verdict.regret.seeds == 5
    confirm = comparison.confirm
    pair = [
        confirm[confirm["arm"] == name].sort_values("seed")
        for name in (comparison.verdict.arm, comparison.verdict.static)
    ]
    oracle = stats.ttest_rel(*(one["score_test"] for one in pair)).confidence_interval(0.95)
    assert comparison.verdict.paired[1:3] == pytest.approx(tuple(oracle))


def test_any_part_of_a_study_can_be_compared() -> None:
    builder = Builder(points=3, seeds=2)
    trials = builder.trials()
    random = np.random.default_rng(0)
    parts = [trials.iloc[:n] for n in range(0, len(trials), 4)]
    parts += [trials[random.random(len(trials)) < share] for share in np.linspace(0.1, 0.9, 10)]
    parts += [trials.assign(status=status) for status in ("diverged", "failed")]
    for part in parts:
        comparison = compare(part, builder.directions, 1.0)
        assert len(comparison.search) + (part["phase"] == "confirm").sum() == len(part)
        assert comparison.verdict.kind in ("better", "equivalent", "worse", "inconclusive", "none")
        assert comparison.cost["way"].iloc[0] == "static search"
        assert set(comparison.arms["arm"]) == set(comparison.confirm["arm"])
    assert (comparison.verdict.kind, comparison.recommended) == ("none", "")
    assert compare(trials, builder.directions, 1.0).verdict.kind != "none"
