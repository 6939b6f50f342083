"""comparison.json against its schema, as a program that has only the schema reads it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from hpo.compare import Scoring, TaskScoring
from hpo.report.comparison_json import document_text
from hpo.report.comparison_schema import Document, schema_text
from tests.helpers.report_builder import Builder

SCHEMA = Path(__file__).parents[3] / "docs" / "comparison.schema.json"
RESULTS = SCHEMA.parent / "results"


def test_the_documented_schema_is_that_of_the_code():
    assert SCHEMA.read_text() == schema_text()


@pytest.mark.parametrize(
    "builder",
    [
        Builder(T=2),
        Builder(T=5, verdict="better"),
        Builder(winner="uncertainty"),
        Builder(verdict="inconclusive", seeds=1),
        Builder(phases=("references", "static", "sweep")),
        Builder(phases=()),
        Builder(tasks=("<b>", "a/b", "c")),
    ],
    ids=["two tasks", "five tasks", "a winner that moves", "one seed", "no confirm", "nothing", "odd names"],
)
def test_every_document_keeps_the_schema(builder):
    content = json.loads(document_text(builder.data()), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))


def test_it_holds_the_numbers_as_they_are():
    data = Builder().data()
    found, told = data.comparison, json.loads(document_text(data))
    assert told["verdict"]["regret"] == found.verdict.regret._asdict()
    assert told["recommended"]["arm"] == found.recommended
    arms = found.arms.set_index("arm")
    for arm in told["arms"]:
        row = arms.loc[arm["arm"]]
        assert arm["score_validation"] == (row["score_val"] if np.isfinite(row["score_val"]) else None)
        for task in found.tasks:
            assert arm["metrics"]["test"][task] == row[f"test/{task}"]
    assert [row["expected"] for row in told["best_of_k"]] == found.budget.curve["expected"].tolist()
    assert {row["arm"] for row in told["arms"]} == set(arms.index)
    assert told["provenance"] == data.provenance


def test_it_says_how_each_task_is_measured():
    builder = Builder(seeds=2, points=4)
    builder.scoring = Scoring(dict(builder.scoring) | {"income": TaskScoring(-1, "absolute")})
    told = json.loads(document_text(builder.data()))
    assert [task["change"] for task in told["tasks"]] == ["absolute", "relative", "relative"]
    assert any("absolute" in sentence for sentence in told["verdict"]["sentences"])


def test_it_names_the_winner_that_no_weights_file_can_hold():
    data = Builder(winner="uncertainty").data()
    told = json.loads(document_text(data))["winner"]
    assert (told["arm"], told["exportable"]) == ("uncertainty", False)
    assert told["code"] == "balancers.Uncertainty(tasks)"
    assert told["gain"] == data.comparison.winner.gain._asdict()
    assert "no weights file" in told["words"]


def test_a_winner_that_is_recommended_gains_nothing_and_needs_no_words():
    told = json.loads(document_text(Builder(verdict="worse").data()))
    assert told["winner"]["arm"] == told["recommended"]["arm"]
    assert (told["winner"]["exportable"], told["winner"]["gain"]["mean"], told["winner"]["words"]) == (True, None, "")


@pytest.mark.parametrize("study", sorted(path.parent.name for path in RESULTS.glob("*/comparison.json")))
def test_published_documents_are_read(study):
    """Those of older versions too, which had no field `winner`."""
    content = json.loads((RESULTS / study / "comparison.json").read_text())
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))
    read = Document.model_validate(content)
    assert read.winner is None or read.winner.arm
    assert {task.change for task in read.tasks} == {"relative"}
