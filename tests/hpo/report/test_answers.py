"""The answers at the top of a report: in the order of the questions, each short, plain when GradNorm loses."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from hpo.compare import Comparison, Interval, compare
from hpo.core.arm import BALANCED
from hpo.report import answers, moving_winner
from hpo.report.arm_labels import arm_label
from hpo.report.sentences import headline, sentences
from tests.helpers.report_builder import Builder

NAN = float("nan")
LATE = "gradnorm/annealed/alpha=1.339"


@pytest.mark.parametrize("verdict", ["better", "equivalent", "worse", "inconclusive"])
def test_questions_come_in_the_order_in_which_people_ask(verdict):
    weights, worth, cost = answers(Builder(verdict=verdict).data().comparison)
    assert weights.sentences[0].startswith("Train with ")
    assert worth.question == "Was the grid search worth it?"
    assert "times the seconds of the static search" in cost.text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("better", "No. GradNorm is better than the best static weights by "),
        ("equivalent", "No. GradNorm is as good as the best static weights"),
        ("worse", "Yes. GradNorm is worse than the best static weights by "),
        ("inconclusive", "Not decided. "),
    ],
)
def test_whether_the_search_was_worth_it_is_said_with_one_number_and_its_interval(verdict, said):
    worth = answers(Builder(verdict=verdict).data().comparison)[1]
    assert worth.sentences[0].startswith(said)
    assert re.search(r"\d ± \d[\d.]* percentage points", worth.sentences[0])


def without_gradnorm(lead: float) -> Comparison:
    """Return the comparison of a study with ``gradnorm: off``, where uncertainty weighting leads by so much."""
    builder = Builder(phases=("references", "static", "confirm"), winner="uncertainty", lead=lead)
    trials = builder.trials()
    trials = trials[~trials["kind"].isin(BALANCED) & (trials["kind"] != "frozen")]
    return compare(trials, builder.scoring, builder.margin, swept=False)


@pytest.mark.parametrize(
    ("lead", "said"),
    [
        (3.0, "No. The best arm without a search, uncertainty weighting, is better by "),
        (-9.0, "Yes. The best static weights, "),
        (0.0, "No. The best arm without a search, uncertainty weighting, is as good: "),
    ],
)
def test_without_an_alpha_sweep_the_search_is_compared_with_the_best_arm_that_needs_none(lead, said):
    comparison = without_gradnorm(lead)
    weights, *_, worth, cost = answers(comparison)
    assert "so far" not in weights.text
    assert worth.question == "Was the grid search worth it?"
    assert worth.text.startswith(said)
    assert re.fullmatch(
        r"The static search, \d+ runs, took [\d.]+ times the seconds of one run with fixed weights\.", cost.text
    )
    assert not comparison.cost["way"].str.contains("sweep").any()
    assert headline(comparison).startswith("Train with ")
    assert "sweep" not in " ".join(sentences(comparison)).replace("no alpha sweep", "")


def test_an_open_verdict_says_what_to_do():
    comparison = Builder(verdict="inconclusive", seeds=3).data().comparison
    assert re.search(r"run \d+ more seeds \(seeds: \d+ in the study file\)", answers(comparison)[1].text)
    endless = replace(comparison, verdict=replace(comparison.verdict, seeds_needed=0))
    assert "raise margin" in answers(endless)[1].text


def test_a_study_that_has_not_come_to_its_end_says_so():
    comparison = replace(Builder(phases=("references", "static")).data().comparison, recommended="")
    weights, *_ = answers(comparison)
    assert "same command again" in weights.text


def test_the_recommended_weights_are_compared_with_equal_weights():
    comparison = Builder(verdict="worse").data().comparison
    assert comparison.recommended != "equal"
    assert re.search(r"On the test split it .* equal weights", answers(comparison)[0].text)
    assert "equal weights" not in answers(replace(comparison, recommended="equal"))[0].sentences[-1].partition(":")[2]


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
    found = answers(Builder(winner=arm).data().comparison)[1]
    assert found.code == code
    assert found.text.endswith(code)
    said = found.text.lower()
    for words in (arm_label(arm).lower(), "best arm on validation", "no weights file can hold it"):
        assert words in said
    assert ("shared is" in said) == ("shared" in code)


def test_a_winner_that_a_file_can_hold_is_the_recommendation_alone():
    comparison = Builder(verdict="worse").data().comparison
    assert moving_winner(comparison) is None
    assert len(answers(comparison)) == 3


def test_a_method_without_a_line_of_code_is_named_all_the_same():
    found = moving_winner(Builder(winner="mine").data().comparison)
    assert found.code == ""
    assert found.text.endswith("no weights file can hold it.")


@pytest.mark.parametrize(
    ("gain", "said"),
    [
        (Interval(1.9, 0.8, 3.0, 5), "it is 1.90 ± 1.10 percentage points better than the best fixed weights."),
        (Interval(-1.9, -3.0, -0.8, 5), "it is 1.90 ± 1.10 percentage points worse than the best fixed weights."),
        (Interval(0.4, -0.3, 1.1, 5), "it cannot be distinguished from the best fixed weights: +0.40 ± 0.70"),
        (Interval(1.9, NAN, NAN, 1), "1.90 percentage points better than the best fixed weights (one seed"),
        (Interval(-1.9, NAN, NAN, 1), "1.90 percentage points worse than the best fixed weights (one seed"),
        (Interval(NAN, NAN, NAN, 0), "is the best arm on validation. Its weights move"),
    ],
)
def test_what_the_winner_gains_on_test_is_said_as_it_is(gain, said):
    comparison = Builder(winner="uncertainty").data().comparison
    told = moving_winner(replace(comparison, margin=0.01, winner=replace(comparison.winner, gain=gain))).text
    assert said in told


def test_a_gain_within_the_margin_is_said_to_make_no_difference():
    comparison = Builder(winner="uncertainty").data().comparison
    winner = replace(comparison.winner, gain=Interval(0.3, 0.2, 0.4, 5))
    for margin, within in ((1.0, True), (0.1, False)):
        told = moving_winner(replace(comparison, margin=margin, winner=winner)).text
        assert ("within the study's margin" in told) is within


def test_without_fixed_weights_a_winner_that_moves_is_still_named():
    comparison = replace(Builder(winner="uncertainty").data().comparison, recommended="")
    first, second, *_ = answers(comparison)
    assert "No arm with fixed weights" in first.text
    assert second.code == "balancers.Uncertainty(tasks)"
