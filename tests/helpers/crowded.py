"""Sentences of a report with more than two numbers, which belong into a table."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hpo.report import ReportData, answers, sentences
from hpo.report.arm_labels import arm_label
from hpo.report.figures import FIGURES
from hpo.report.sections import sections
from hpo.report.tables import definitions

NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d.,]*")
SENTENCE = re.compile(r"(?<=[.!?:]) +(?=[A-Z\d])")


def texts(data: ReportData) -> Iterator[str]:
    """Yield every text that a reader of the report meets outside tables."""
    comparison = data.comparison
    for answer in answers(comparison):
        yield from answer.sentences
    yield from sentences(comparison)
    yield from comparison.alarms
    yield definitions(comparison)
    for module in FIGURES.values():
        if module.figure(data) is not None:
            yield module.caption(data)
    yield from (table.caption for section in sections(data) for table in section.tables)


def crowded(data: ReportData) -> list[str]:
    """Return the sentences with more than two numbers, not counting those in names of arms and in settings."""
    table = data.comparison
    arms = {
        str(arm)
        for trials in (table.arms, table.search, table.confirm, data.unfinished)
        for arm in trials.get("arm", ())
    }
    names = sorted({*arms, *map(arm_label, arms), *table.tasks}, key=len, reverse=True)
    name = re.compile("|".join(map(re.escape, names)), re.IGNORECASE)
    parts = (
        part for text in texts(data) for part in SENTENCE.split(re.sub(r"\(seeds: .*?\)", "", name.sub("", text)))
    )
    return [part for part in parts if len(NUMBER.findall(part)) > 2]
