"""The report of a study that tunes arguments of the problem."""

from dataclasses import replace
from functools import cache

import pytest

from hpo.report import answers
from hpo.report.arm_labels import arm_label
from hpo.report.comparison_json import document
from hpo.report.figures import FIGURES, figures_of
from hpo.report.sections import sections
from hpo.report.tables import tuning_table
from hpo.report.tuning_words import tuning_sentences
from tests.helpers.report_builder import Builder

BEST = "learning_rate=0.01"


@cache
def tuned(verdict="equivalent"):
    return Builder(tuned=True, verdict=verdict).data()


def test_the_labels_of_arms_name_their_arguments():
    assert arm_label(f"static/06@{BEST},width=64") == "static point 06, learning_rate=0.01, width=64"
    assert arm_label(f"uncertainty@{BEST}") == "uncertainty weighting, learning_rate=0.01"


def test_only_a_tuned_study_has_the_figure():
    assert "tuning" in figures_of(tuned())
    assert "tuning" not in figures_of(Builder().data())
    assert tuning_sentences(Builder().data().comparison) == ()


def test_the_figure_has_a_line_per_arm_in_the_order_of_the_values():
    figure = FIGURES["tuning"].figure(tuned())
    assert [list(line.x) for line in figure.data] == [[0.0005, 0.002, 0.01]] * 3
    assert {line.name for line in figure.data} == {
        "static point 01",
        "equal weights",
        "GradNorm (robust recipe, alpha 0.25)",
    }
    assert figure.layout.xaxis.type == "log"


def test_the_table_has_the_gain_of_each_arm():
    table = tuning_table(tuned().comparison)
    assert table["Best arguments"].tolist() == [BEST] * 3
    gains = [float(text.split()[0]) for text in table["Gain from tuning (95% interval)"]]
    assert gains == pytest.approx([1.0] * 3, abs=0.5)
    (section,) = (one for one in sections(tuned()) if one.figure == "tuning")
    assert len(section.tables[0].content) == 3


def test_the_answers_say_how_much_is_due_to_the_arguments():
    (answer,) = (one for one in answers(tuned().comparison) if one.question.startswith("How much"))
    assert answer.sentences[0] == (
        "Each arm was trained with 3 sets of arguments (learning_rate) and counts with its best."
    )
    assert answer.sentences[-1].startswith("So tuning moves it by ")


def test_equal_weights_count_with_their_best_arguments():
    comparison = tuned().comparison
    text = answers(comparison)[0].text
    assert "equal weights with their best arguments" in text
    plain = answers(replace(comparison, tuning=Builder().data().comparison.tuning))[0].text
    assert "equal weights with" not in plain


def test_programs_find_the_same_in_the_document():
    found = document(tuned()).tuning
    assert [one.label for one in found.sets] == ["", "learning_rate=0.0005", BEST]
    assert found.gains["equal"].mean == pytest.approx(1.0, abs=0.5)
    assert document(Builder().data()).tuning is None


def test_a_best_value_at_the_end_is_an_alarm():
    (alarm,) = (one for one in tuned().comparison.alarms if "static/01" in one and "learning_rate" in one)
    assert alarm.startswith("the best learning_rate of static/01 is 0.01, the highest that was tried.")
