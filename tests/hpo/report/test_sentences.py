from dataclasses import replace

import pytest

from hpo.core.number_format import NOTHING, duration, ratio, signed
from hpo.report import headline, sentences
from hpo.report.arm_labels import arm_label
from tests.helpers.report_builder import Builder

NAN = float("nan")


@pytest.mark.parametrize("verdict", ["better", "equivalent", "worse", "inconclusive"])
def test_the_first_sentence_says_the_verdict_with_its_evidence(verdict):
    comparison = Builder(verdict=verdict, seeds=4).data().comparison
    assert comparison.verdict.kind == verdict
    found, *_ = sentences(comparison)
    regret = comparison.verdict.regret
    for said in (
        f"regret {signed(regret.mean)}",
        f"95% interval {signed(regret.low)} to {signed(regret.high)}",
        "4 seeds",
        "test split",
        "margin",
        arm_label(comparison.verdict.arm),
        arm_label(comparison.verdict.static),
    ):
        assert said in found


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("better", "is better than"),
        ("equivalent", "is equivalent to"),
        ("worse", "GradNorm loses"),
        ("inconclusive", "is open"),
    ],
)
def test_each_verdict_has_its_own_words(verdict, words):
    assert words in sentences(Builder(verdict=verdict).data().comparison)[0]


def test_an_inconclusive_verdict_says_how_many_seeds_it_would_take():
    comparison = Builder(verdict="inconclusive", seeds=3).data().comparison
    verdict = replace(comparison.verdict, seeds_needed=7)
    comparison = replace(comparison, verdict=verdict)
    assert "about 7 seeds settle it with a probability of 80%" in sentences(comparison)[0]
    endless = replace(comparison, verdict=replace(verdict, seeds_needed=0))
    assert "more than 1,000 seeds" in sentences(endless)[0]


def test_the_third_sentence_says_what_the_static_search_would_have_needed():
    comparison = Builder(verdict="worse").data().comparison
    row = comparison.budget.table.set_index("recipe").loc["robust"]
    assert not row["beyond"]
    *_, said = sentences(comparison)
    assert (
        f"must try {row['k']} of the 24 points, at least {row['k_low']} (95%, if the points stood for random ones)"
        in said
    )
    *_, said = sentences(replace(comparison, random_points=True))
    assert f"at least {row['k_low']} (95%): " in said
    assert f"{ratio(row['steps_sweep'])} times the sweep's steps" in said
    beyond = replace(comparison.budget, table=comparison.budget.table.assign(beyond=True))
    *_, said = sentences(replace(comparison, budget=beyond))
    assert said.startswith("None of the 24 static points matches")


def test_one_seed_has_no_interval():
    found, *_ = sentences(Builder(seeds=1).data().comparison)
    assert "one seed gives no interval" in found
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
    cost = sentences(Builder(phases=phases).data().comparison)[1]
    assert "cannot be compared" in cost
    assert missing in cost


def test_the_second_sentence_counts_all_alpha_sweeps_and_one_run():
    comparison = Builder().data().comparison
    table = comparison.cost.set_index("way")
    cost = sentences(comparison)[1]
    for way in ("GradNorm, all alpha sweeps", "GradNorm robust, one run"):
        assert f"{ratio(table.loc[way, 'steps_ratio'])} times its steps" in cost
        assert f"{ratio(table.loc[way, 'seconds_ratio'])} times its measured seconds" in cost
    assert duration(table.loc["static search", "seconds"]) in cost


def test_it_says_plainly_when_gradnorm_costs_more():
    assert "cost more seconds" in sentences(Builder(slow_sweep=6).data().comparison)[1]
    assert "cost more steps and more seconds" in sentences(Builder(points=8).data().comparison)[1]
    assert "cost less" in sentences(Builder().data().comparison)[1]


@pytest.mark.parametrize(
    ("arm", "label"),
    [
        ("static/07", "static point 07"),
        ("equal", "equal weights"),
        ("uncertainty", "uncertainty weighting"),
        ("frozen/loss", "frozen weights (1 / first loss)"),
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
