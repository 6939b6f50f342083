"""The report as Markdown: the content of the page without its figures."""

from __future__ import annotations

import json
import re

import pandas as pd

from hpo.core.text import printable
from hpo.report.answers import answers
from hpo.report.glossary import glossary
from hpo.report.report_data import ReportData, recommended_weights
from hpo.report.sections import STUDY_FILE, facts, sections
from hpo.report.sentences import headline, sentences
from hpo.report.tables import ARM, definitions, trials_caption, trials_table


def markdown(data: ReportData) -> str:
    """Return the report as Markdown."""
    comparison = data.comparison
    parts = [f"# {_text(data.study)}: {headline(comparison)}"]
    weights = recommended_weights(comparison)
    for place, answer in enumerate(answers(comparison)):
        parts += [f"**{answer.question}** {_text(' '.join(answer.sentences))}"]
        parts += [_fence(answer.code, "python")] if answer.code else []
        parts += [_fence(json.dumps(weights, indent=2), "json")] if weights and place == 0 else []
    parts += ["## The statistics behind it", *map(_text, sentences(comparison))]
    if comparison.alarms:
        parts += ["## Alarms", "\n".join(f"- {_text(alarm)}" for alarm in comparison.alarms)]
    for section in sections(data):
        for place, table in enumerate(section.tables):
            parts += [f"## {section.title}"] * (place == 0) + [_text(table.caption), _table(table.content)]
    parts += ["## Glossary", definitions(comparison)]
    parts += ["\n".join(f"- **{_text(term.name)}**: {_text(term.definition)}" for term in glossary())]
    parts += ["## Provenance", "\n".join(f"- {_text(name)}: {_text(value)}" for name, value in facts(data).items())]
    if STUDY_FILE in data.provenance:
        parts += ["### Study file", _fence(data.provenance[STUDY_FILE], "yaml")]
    parts += ["## Trials", trials_caption(data), _table(trials_table(data))]
    return "\n\n".join(parts) + "\n"


def _table(table: pd.DataFrame) -> str:
    table = table.drop(columns=ARM, errors="ignore")
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows)


def _text(text: str) -> str:
    """Escape text so that Markdown shows it unchanged: no HTML, no table cells, no control characters."""
    one_line = printable(" ".join(str(text).split()))
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", one_line)


def _fence(text: str, language: str) -> str:
    """Return a code block whose fence is longer than any in the text."""
    ticks = "`" * max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", text))])
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"
