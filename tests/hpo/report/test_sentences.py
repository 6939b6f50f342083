from dataclasses import replace

import pytest

from hpo.compare import Interval
from hpo.core.number_format import NOTHING, duration, ratio, signed
from hpo.report import best, headline, recommendation, sentences
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
    assert recommendation(comparison).endswith("for a verdict run 4 more seeds (seeds: 7 in the study file).")
    endless = replace(comparison, verdict=replace(verdict, seeds_needed=0))
    assert "more than 1,000 seeds" in sentences(endless)[0]
    assert "widen margin" in recommendation(endless)


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
    assert "same command again" in recommendation(comparison)


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


def test_the_recommendation_names_arm_and_weights():
    comparison = Builder(verdict="worse").data().comparison
    advice = recommendation(comparison)
    assert advice.startswith(f"Train with {arm_label(comparison.recommended)}: income 0.00")
    assert "\n" not in advice


def test_a_recommendation_without_a_verdict_asks_to_resume():
    comparison = Builder().data().comparison
    unfinished = replace(comparison, verdict=replace(comparison.verdict, kind="none", reason="no GradNorm arm"))
    assert "same command again" in recommendation(unfinished)


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


LATE = "gradnorm/annealed/alpha=1.339"


@pytest.mark.parametrize(
    ("arm", "code"),
    [
        ("uncertainty", "balancers.Uncertainty(tasks)"),
        ("gradnorm/robust/alpha=0.25", "balancers.GradNorm.robust(tasks, shared, alpha=0.25)"),
        (LATE, "balancers.GradNorm.annealed(tasks, shared, alpha=1.339, decay_steps=1170)"),
        ("famo", 'balancers.torchjd_methods.torchjd_balancer("famo", tasks)'),
    ],
)
def test_a_winner_whose_weights_move_is_named_with_the_code_that_trains_with_it(arm, code):
    comparison = Builder(winner=arm).data().comparison
    found = best(comparison)
    assert found.code == code
    assert found.text.endswith(f"train with: {code}") or found.text.endswith(f"): {code}")
    for said in (arm_label(arm), "Best on validation", "no weights file can hold it"):
        assert said in found.words
    assert ("shared is" in found.words) == ("shared" in code)
    fixed = recommendation(comparison)
    assert fixed.startswith(f"For fixed weights, train with {arm_label(comparison.recommended)}: income 0.00")


def test_a_winner_that_a_file_can_hold_is_the_recommendation_alone():
    comparison = Builder(verdict="worse").data().comparison
    assert best(comparison) is None
    assert recommendation(comparison).startswith("Train with ")


def test_a_method_without_a_line_of_code_is_named_all_the_same():
    found = best(Builder(winner="mine").data().comparison)
    assert (found.code, found.text) == ("", found.words)
    assert "no weights file can hold it." in found.words


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (
            Interval(1.9, 0.8, 3.0, 5),
            "On test it is better than the best fixed weights, by 1.90 percentage points (95% interval",
        ),
        (
            Interval(-1.9, -3.0, -0.8, 5),
            "worse than the best fixed weights, by 1.90 percentage points (95% interval 0.80",
        ),
        (
            Interval(0.4, -0.3, 1.1, 5),
            "+0.40 percentage points, cannot be distinguished from 0 (95% interval -0.30 to +1.10)",
        ),
        (
            Interval(1.9, NAN, NAN, 1),
            "On test it is better than the best fixed weights, by 1.90 percentage points (one seed",
        ),
        (
            Interval(-1.9, NAN, NAN, 1),
            "On test it is worse than the best fixed weights, by 1.90 percentage points (one seed",
        ),
        (Interval(0.0, NAN, NAN, 1), "On test it is as good as the best fixed weights (one seed gives no interval)."),
        (Interval(NAN, NAN, NAN, 0), "uncertainty weighting. Its weights move"),
    ],
)
def test_what_the_winner_gains_on_test_is_said_as_it_is(gain, said):
    comparison = Builder(winner="uncertainty").data().comparison
    told = best(replace(comparison, margin=0.01, winner=replace(comparison.winner, gain=gain))).words
    assert said in told
    assert ("cannot be distinguished" in told) == (gain.low <= 0 <= gain.high)


def test_a_gain_within_the_margin_is_said_to_make_no_difference():
    comparison = Builder(winner="uncertainty").data().comparison
    winner = replace(comparison.winner, gain=Interval(0.3, 0.2, 0.4, 5))
    for margin, within in ((1.0, True), (0.1, False)):
        told = best(replace(comparison, margin=margin, winner=winner)).words
        assert ("within the study's margin" in told) is within


def test_without_fixed_weights_a_winner_that_moves_is_still_named():
    comparison = replace(Builder(winner="uncertainty").data().comparison, recommended="")
    assert best(comparison).code == "balancers.Uncertainty(tasks)"
    assert recommendation(comparison).startswith("No fixed weights to train with")


def test_a_caution_speaks_of_the_fixed_weights_where_others_won():
    comparison = Builder(verdict="inconclusive", winner="uncertainty", seeds=3).data().comparison
    assert comparison.verdict.kind == "inconclusive"
    assert "It has the best fixed weights on validation so far" in recommendation(comparison)
