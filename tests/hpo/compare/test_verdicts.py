"""The verdict: enumeration of all resamples, and what it covers and how often it errs in simulated studies."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hpo.compare import interval, seed_noise, selection
from hpo.compare.verdicts import RESAMPLES, best_arm, recentred, verdict
from tests.helpers import simulated_studies as simulated
from tests.helpers.compare_tables import NAN, arm, arms_by_name, compared, row

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


# --- selection: against all S**S resamples, one by one

GRADNORM = ("gradnorm/paper/alpha=0", "gradnorm/robust/alpha=0", "gradnorm_static/robust/tail")
POINTS = ("static/01", "static/02", "equal")


def confirm(scores: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """Validation and test scores by arm, seed by seed from 1."""
    rows = [
        {"arm": name, "kind": name.split("/")[0], "seed": seed, "score_val": val, "score_test": test}
        for name, pairs in scores.items()
        for seed, (val, test) in enumerate(pairs, 1)
    ]
    return pd.DataFrame(rows)


def enumerated(scores: dict[str, list[tuple[float, float]]], S: int) -> tuple[float, dict[str, float]]:
    """Regret and shares over all S**S resamples of the seeds."""
    readings: dict[int, list[float]] = {seed: [] for seed in range(S)}
    shares = dict.fromkeys(scores, 0.0)
    for resample in itertools.product(range(S), repeat=S):
        ours, static = (
            min((name for name in side if name in scores), key=lambda a: sum(scores[a][s][0] for s in resample))
            for side in (GRADNORM, POINTS)
        )
        shares[ours] += 1 / S**S
        shares[static] += 1 / S**S
        for seed in set(range(S)) - set(resample):
            readings[seed].append(scores[ours][seed][1] - scores[static][seed][1])
    return float(np.mean([np.mean(one) for one in readings.values()])), shares


@pytest.mark.parametrize("S", [2, 3, 4])
@pytest.mark.parametrize("case", range(4))
def test_selection_by_enumeration_of_all_resamples(S: int, case: int) -> None:
    random = np.random.default_rng([S, case])
    scores = {name: [tuple(random.normal(size=2)) for _ in range(S)] for name in (*GRADNORM, *POINTS)}
    regret, shares = enumerated(scores, S)
    found = selection(confirm(scores), resamples=60_000)
    assert found.regret == pytest.approx(regret, abs=0.025)  # 4 standard errors or more
    assert found.chosen == pytest.approx(shares, abs=0.01)
    default = selection(confirm(scores))
    assert default.regret == pytest.approx(regret, abs=0.1)
    assert default.chosen == pytest.approx(shares, abs=0.04)


@settings(max_examples=40)
@given(st.data(), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3))
def test_shares_sum_to_one_a_side(data: st.DataObject, S: int, ours: int, static: int) -> None:
    number = st.floats(-10, 10)
    names = (*GRADNORM[:ours], *POINTS[:static])
    scores = {name: data.draw(st.lists(st.tuples(number, number), min_size=S, max_size=S)) for name in names}
    found = selection(confirm(scores), resamples=50)
    assert sum(found.chosen[one] for one in GRADNORM[:ours]) == pytest.approx(1)
    assert sum(found.chosen[one] for one in POINTS[:static]) == pytest.approx(1)
    low = min(min(t for _, t in scores[a]) for a in GRADNORM[:ours]) - max(
        max(t for _, t in scores[a]) for a in POINTS[:static]
    )
    assert found.regret >= low - 1e-9


def test_no_seed_is_read_with_arms_that_it_helped_to_choose() -> None:
    """One arm is best by luck on one seed: wherever that seed takes part in the choice, its luck is not read."""
    fair, lucky, static = GRADNORM[0], GRADNORM[1], POINTS[0]
    for luck in range(4):
        pairs = [(0.5, 0.5)] * 4
        pairs[luck] = (-1000.0, -1000.0)
        scores = {fair: [(0.0, 0.0)] * 4, lucky: pairs, static: [(0.0, 0.0)] * 4}
        found = selection(confirm(scores))
        assert 0 < found.regret < 0.5  # of the lucky seed not even a millionth
        assert found.regret == pytest.approx(enumerated(scores, 4)[0], abs=0.02)
        assert found.chosen[lucky] == pytest.approx(1 - 0.75**4, abs=0.03)
        plain = verdict(confirm(scores), 1.0)
        assert (plain.arm, plain.paired.mean) == (lucky, pytest.approx((3 * 0.5 - 1000) / 4))
        assert plain.regret.mean == found.regret


def test_the_choice_is_on_validation_in_every_resample() -> None:
    random = np.random.default_rng(1)
    best_on_test = {name: [(9.0 + x, -50.0) for x in random.normal(size=3)] for name in (GRADNORM[1], POINTS[1])}
    scores = {GRADNORM[0]: [(1.0, 4.0)] * 3, POINTS[0]: [(1.0, 1.0)] * 3, **best_on_test}
    found = selection(confirm(scores))
    assert found.regret == pytest.approx(3.0)
    assert found.chosen == {GRADNORM[0]: 1, GRADNORM[1]: 0, POINTS[0]: 1, POINTS[1]: 0}


def test_selection_on_the_seeds_of_both_sides() -> None:
    random = np.random.default_rng(2)
    scores = {name: [tuple(random.normal(size=2)) for _ in range(3)] for name in (*GRADNORM, *POINTS)}
    table = confirm(scores)
    more = confirm({name: [*scores[name], (-99.0, -99.0)] for name in GRADNORM})  # a seed that no static arm has
    longer = pd.concat([more, table[table["kind"].isin(["static", "equal"])]])
    assert selection(longer).regret == selection(table).regret


@pytest.mark.parametrize("column", ["score_val", "score_test"])
def test_selection_leaves_out_an_arm_that_lacks_a_seed(column: str) -> None:
    random = np.random.default_rng(3)
    scores = {name: [tuple(random.normal(size=2)) for _ in range(3)] for name in (*GRADNORM, *POINTS)}
    table = confirm(scores)
    broken = pd.concat(
        [table, confirm({"static/09": [(-9.0, -9.0)] * 3, "gradnorm/paper/alpha=9": [(-9.0, -9.0)] * 3})]
    )
    broken.loc[broken["arm"].str.endswith("9") & (broken["seed"] == 2), column] = NAN
    found = selection(broken)
    assert found.regret == selection(table).regret
    assert set(found.chosen) == set(scores)


def test_a_test_score_without_one_on_validation_does_not_stop_the_selection() -> None:
    random = np.random.default_rng(4)
    scores = {name: [tuple(random.normal(size=2)) for _ in range(3)] for name in (*GRADNORM, *POINTS)}
    table = confirm(scores)
    extra = pd.DataFrame({"arm": POINTS[:1], "kind": "static", "seed": 4, "score_val": NAN, "score_test": 1.0})
    assert selection(pd.concat([table, extra])).regret == selection(table).regret


def test_one_seed_has_no_selection() -> None:
    scores = {GRADNORM[0]: [(1.0, 1.0)], POINTS[0]: [(0.0, 0.0)]}
    found = selection(confirm(scores))
    assert np.isnan(found.regret)
    assert found.chosen == {}
    said = verdict(confirm(scores), 1.0)
    assert (said.kind, said.regret.mean, said.regret.seeds, said.seeds_needed) == ("inconclusive", 1.0, 1, 0)


def test_a_side_without_arms_has_no_selection() -> None:
    scores = {GRADNORM[0]: [(1.0, 1.0), (2.0, 2.0)]}
    assert np.isnan(selection(confirm(scores)).regret)
    assert np.isnan(selection(confirm(scores | {POINTS[0]: [(NAN, NAN)] * 2})).regret)


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=6), st.floats(-9, 9))
def test_recentring_keeps_the_width(values: list[float], centre: float) -> None:
    paired = interval(values)
    moved = recentred(paired, centre)
    assert moved.mean == centre
    assert moved.high - moved.low == pytest.approx(paired.high - paired.low)
    assert (moved.high + moved.low) / 2 == pytest.approx(centre, abs=1e-9)
    assert recentred(paired, NAN) is paired


def test_the_best_arm_has_as_many_seeds_as_any() -> None:
    scores = {
        "static/01": [(-9.0, 0.0), (-9.0, 0.0), (NAN, 0.0)],
        "static/02": [(1.0, 0.0)] * 3,
        "equal": [(2.0, 0)] * 3,
    }
    assert best_arm(confirm(scores), ("static", "equal")) == "static/02"
    assert best_arm(confirm(scores), ("gradnorm",)) == ""


# --- the noise of a seed


@pytest.mark.parametrize("S", [2, 3, 5])
def test_seed_noise_is_recovered_though_one_arm_is_wild(S: int) -> None:
    random = np.random.default_rng(S)
    sigma, A, found = 0.7, 24, []
    for _ in range(60):
        size = np.where(np.arange(A) == 3, 20 * sigma, sigma)[:, None]
        scores = random.normal(0, 9, (A, 1)) + random.normal(0, 4, S) + size * random.normal(size=(A, S))
        names = [f"{kind}/{i}" for i, kind in zip(range(A), itertools.cycle(["static", "gradnorm", "frozen"]))]
        alone = {"single_task/x": [(x, 0.0) for x in random.normal(0, 999, S)]}  # no score, no noise
        table = confirm({name: [(x, NAN) for x in line] for name, line in zip(names, scores, strict=True)} | alone)
        noise, degrees = seed_noise(table)
        found.append(noise**2)
        assert degrees == pytest.approx(0.64 * 23 * (S - 1))
    assert np.sqrt(np.mean(found)) == pytest.approx(sigma, rel=0.1)


def test_seed_noise_of_either_split() -> None:
    random = np.random.default_rng(0)
    table = confirm({f"static/{i}": [(a, 10 * a) for a in random.normal(size=4)] for i in range(9)})
    assert seed_noise(table, "test")[0] == pytest.approx(10 * seed_noise(table)[0])


def test_no_seed_noise_from_one_seed_or_one_arm() -> None:
    for scores in (
        {"static/01": [(1.0, 1.0)], "static/02": [(2.0, 2.0)]},
        {"static/01": [(1.0, 1.0), (2.0, 2.0)]},
        {"single_task/a": [(1.0, 1.0), (2.0, 2.0)], "static/01": [(1.0, 1.0), (4.0, 2.0)]},
    ):
        noise, degrees = seed_noise(confirm(scores))
        assert np.isnan(noise)
        assert degrees == 0
    assert np.isnan(seed_noise(confirm({"static/01": [(1.0, 1.0)]}).iloc[:0])[0])


# --- simulated studies

N = 2000
SEEDS = pytest.mark.parametrize("seeds", [3, 5, 10])
STATICS = pytest.mark.parametrize("statics", [2, 5])


@SEEDS
@STATICS
def test_the_simulation_s_verdict_is_the_package_s(seeds: int, statics: int) -> None:
    some = simulated.studies(simulated.truths(12, -0.5, 0.0, statics, spread=0.7), seeds, resamples=RESAMPLES)
    for study, word in enumerate(some.words(1.5)):
        found = verdict(some.confirm(study), 1.5)
        centre, half = some.regret[study], some.half_width()[study]
        names = list(dict.fromkeys(some.confirm(study)["arm"]))
        assert found.regret == pytest.approx((centre, centre - half, centre + half, seeds), abs=1e-4)  # float32 there
        assert found.paired.mean == pytest.approx(some.differences[study].mean())
        assert (found.arm, found.static) == tuple(names[side[study]] for side in some.best)
        assert found.kind == word


@SEEDS
def test_the_interval_of_two_fixed_arms_covers(seeds: int) -> None:
    truth = simulated.truths(N, 0.0, 0.0, 2, spread=1.0)
    some = simulated.studies(truth, seeds)
    paired = some.test[:, 0] - some.test[:, -1]
    off = np.abs(paired.mean(axis=1) - (truth[:, 0] - truth[:, -1]))
    assert 0.93 < np.mean(off < simulated.half_width(paired)) < 0.97


@SEEDS
@STATICS
@pytest.mark.parametrize("spread", [0.7, 1.5, 3.0])
def test_the_regret_covers_where_arms_differ(seeds: int, statics: int, spread: float) -> None:
    some = simulated.studies(simulated.truths(N, 0.0, 0.0, statics, spread), seeds)
    off = np.abs(some.regret - some.true_regret)
    assert 0.93 < np.mean(off < some.half_width()) < 0.98


@SEEDS
@STATICS
def test_of_arms_far_apart_the_regret_is_that_of_the_two_best(seeds: int, statics: int) -> None:
    truth = simulated.truths(N, 0.0, 0.0, statics)
    truth[:, [2, -1]] -= 40  # one of each side is best in every resample
    some = simulated.studies(truth, seeds)
    assert (some.true_difference == 0).all()
    np.testing.assert_allclose(some.true_regret, 0, atol=1e-4)
    np.testing.assert_allclose(some.regret, some.differences.mean(axis=1), atol=1e-4)


@SEEDS
@STATICS
def test_the_winner_s_curse_is_lifted(seeds: int, statics: int) -> None:
    """All arms are equally good, and one side has more of them."""
    some = simulated.studies(simulated.truths(N, 0.0, 0.0, statics), seeds)
    error = some.regret.std() / np.sqrt(N)
    assert abs(some.regret.mean()) < 3 * error
    assert 0.93 < np.mean(np.abs(some.regret) < some.half_width()) < 0.985
    words = some.words(margin=1e-3)
    assert np.mean(words == "better") <= 0.03
    assert np.mean(words == "worse") <= 0.035
    plain = some.differences.mean(axis=1)
    assert plain.mean() < -5 * plain.std() / np.sqrt(N)
    if statics == 2:
        assert plain.mean() < -0.2  # of the noise of one seed


@pytest.mark.slow
@SEEDS
@STATICS
def test_how_often_the_words_err(seeds: int, statics: int) -> None:
    def shares(ours: float, margin: float, spread: float = 0.0) -> pd.Series:
        some = simulated.studies(simulated.truths(N, ours, 0.0, statics, spread), seeds, stream=1)
        return pd.Series(some.words(margin)).value_counts(normalize=True).reindex(list(OURS), fill_value=0.0)

    wide = 8.0
    worse_by_the_margin = shares(wide, wide)
    assert worse_by_the_margin["equivalent"] <= 0.06
    assert worse_by_the_margin["better"] <= 0.01
    better_by_the_margin = shares(-wide, wide)
    assert better_by_the_margin["equivalent"] <= 0.06
    assert better_by_the_margin["worse"] <= 0.01
    assert shares(-20.0, 1.0)["better"] > 0.995
    assert shares(20.0, 1.0)["worse"] > 0.995
    assert shares(0.0, 12.0)["equivalent"] > 0.98
    assert shares(0.0, 0.3)["equivalent"] < 0.05  # a margin far below the noise: nothing can be shown
