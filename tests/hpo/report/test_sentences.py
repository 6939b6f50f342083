from dataclasses import replace

import pytest

from hpo.compare import Comparison
from hpo.core.number_format import NOTHING, duration, ratio, signed
from hpo.report import headline, sentences
from hpo.report.arm_labels import arm_label
from tests.helpers.crowded import crowded
from tests.helpers.report_builder import Builder

NAN = float("nan")


def said(comparison: Comparison) -> str:
    return " ".join(sentences(comparison))


@pytest.mark.parametrize("verdict", ["better", "equivalent", "worse", "inconclusive"])
def test_the_verdict_is_said_with_its_evidence(verdict):
    comparison = Builder(verdict=verdict, seeds=4).data().comparison
    assert comparison.verdict.kind == verdict
    first = sentences(comparison)[0].lower()
    assert arm_label(comparison.verdict.arm).lower() in first
    assert arm_label(comparison.verdict.static) in first
    regret = comparison.verdict.regret
    half = signed((regret.high - regret.low) / 2).lstrip("+")
    for fact in (
        f"{signed(regret.mean)} ± {half}",
        "95% interval over 4 seeds",
        "test split",
        "±1 percentage points",
    ):
        assert fact in said(comparison)


VARIANTS = [
    {"verdict": "better", "T": 2},
    {"verdict": "worse", "T": 7},
    {"verdict": "inconclusive", "seeds": 3, "winner": "gradnorm/annealed/alpha=1.339"},
    {"seeds": 1, "diverged": ("single_task/age", "static/04")},
    {"phases": ("references", "static")},
]


@pytest.mark.parametrize("how", VARIANTS, ids=str)
def test_no_sentence_outside_tables_has_more_than_two_numbers(how):
    assert crowded(Builder(**how).data()) == []


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "is better than"),
        ("equivalent", "is equivalent to"),
        ("worse", "GradNorm loses"),
        ("inconclusive", "not decided"),
    ],
)
def test_each_verdict_has_its_own_words(verdict, words):
    assert words in sentences(Builder(verdict=verdict).data().comparison)[0]


def test_an_inconclusive_verdict_says_how_many_seeds_it_would_take():
    comparison = Builder(verdict="inconclusive", seeds=3).data().comparison
    verdict = replace(comparison.verdict, seeds_needed=7)
    comparison = replace(comparison, verdict=verdict)
    assert "about 7 seeds" in said(comparison)
    endless = replace(comparison, verdict=replace(verdict, seeds_needed=0))
    assert "more than 1,000 seeds" in said(endless)


def test_the_size_of_a_static_search_to_match_is_said_with_its_bound():
    comparison = Builder(verdict="worse").data().comparison
    row = comparison.budget.table.set_index("recipe").loc["robust"]
    assert not row["beyond"]
    for fact in (
        f"must try {row['k']} of the 24 static points",
        f"at least {row['k_low']} points",
        "drawn at random",
    ):
        assert fact in said(comparison)
    drawn = said(replace(comparison, random_points=True))
    assert "drawn at random" not in drawn
    assert f"{ratio(row['steps_sweep'])} times the steps" in drawn
    beyond = replace(comparison.budget, table=comparison.budget.table.assign(beyond=True))
    assert "None of the 24 static points" in said(replace(comparison, budget=beyond))


def test_one_seed_has_no_interval():
    found = said(Builder(seeds=1).data().comparison)
    assert "One seed gives no interval" in found
    assert "95% interval" not in found


def test_without_a_verdict_the_sentence_says_what_is_missing():
    comparison = Builder(phases=("references", "static", "sweep")).data().comparison
    assert headline(comparison) == "No verdict"
    assert sentences(comparison)[0] == "There is no verdict: no static arm has a score on the confirm seeds."


@pytest.mark.parametrize(
    ("phases", "missing"),
    [(("references",), "static search or the alpha sweep"), (("references", "static"), "the alpha sweep")],
)
def test_without_both_searches_there_is_no_cost(phases, missing):
    cost = said(Builder(phases=phases).data().comparison)
    assert "cannot be compared" in cost
    assert missing in cost


def test_the_cost_counts_all_alpha_sweeps_and_one_run():
    comparison = Builder().data().comparison
    table = comparison.cost.set_index("way")
    cost = said(comparison)
    for way in ("GradNorm, all alpha sweeps", "GradNorm robust, one run"):
        steps, seconds = (ratio(table.loc[way, f"{unit}_ratio"]) for unit in ("steps", "seconds"))
        assert f"{steps} times the steps and {seconds} times the seconds of the static search" in cost
    assert duration(table.loc["static search", "seconds"]) in cost


def test_it_says_plainly_when_gradnorm_costs_more():
    assert "cost more seconds" in said(Builder(slow_sweep=6).data().comparison)
    assert "cost more steps and more seconds" in said(Builder(points=8).data().comparison)
    assert "cost less" in said(Builder().data().comparison)


@pytest.mark.parametrize(
    ("arm", "label"),
    [
        ("static/07", "static point 07"),
        ("equal", "equal weights"),
        ("uncertainty", "uncertainty weighting"),
        ("frozen/loss", "first-step weights (1 / first loss)"),
        ("single_task/age", "single task age"),
        ("gradnorm/robust/alpha=0.51234,lr=0.01", "GradNorm (robust recipe, alpha 0.512, lr 0.01)"),
        ("gradnorm_static/robust/tail", "GradNorm static (robust recipe, tail average)"),
        ("mine/7", "mine/7"),
    ],
)
def test_arms_have_labels(arm, label):
    assert arm_label(arm) == label


def test_numbers_read_well():
    assert [signed(x) for x in (1.234, -0.001, 1204.4, float("nan"))] == ["+1.23", "0.00", "+1,204", NOTHING]
    assert [duration(x) for x in (0.41, 85, 600, 12240, 900000)] == ["410 ms", "85 s", "10 min", "3.4 h", "250 h"]
    assert [ratio(x) for x in (0.0421, 2.41, 13.2)] == ["0.042", "2.4", "13"]
