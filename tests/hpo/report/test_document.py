"""comparison.json against its schema, as a program that has only the schema reads it."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from hpo.report.document import document_text, schema_text
from tests.hpo.report.builder import Builder

SCHEMA = Path(__file__).parents[3] / "docs" / "comparison.schema.json"


def test_the_documented_schema_is_that_of_the_code():
    assert SCHEMA.read_text() == schema_text()


@pytest.mark.parametrize(
    "builder",
    [
        Builder(T=2),
        Builder(T=5, verdict="better"),
        Builder(verdict="inconclusive", seeds=1),
        Builder(phases=("references", "static", "sweep")),
        Builder(phases=()),
        Builder(tasks=("<b>", "a/b", "c")),
    ],
    ids=["two tasks", "five tasks", "one seed", "no confirm", "nothing", "odd names"],
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
