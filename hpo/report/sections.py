"""The tables of the report in their order, with titles and how to read them; page and Markdown show the same."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd

from hpo.report.data import ReportData
from hpo.report.tables import arms_table, cost_table, distances_table, metrics_table, ranks_table

STUDY_FILE = "study file"  # the one entry of the provenance that has many lines


class Section(NamedTuple):
    """One table of the report."""

    title: str
    caption: str
    table: pd.DataFrame


def sections(data: ReportData) -> list[Section]:
    """All tables but the list of trials."""
    comparison = data.comparison
    return [
        Section(
            "Arms",
            "Best on validation first. The verdict compares the best GradNorm arm with the best static arm; "
            "w are the weights, whose sum is the number of tasks.",
            arms_table(data),
        ),
        Section("Metrics", "On the test split, mean over seeds.", metrics_table(data)),
        Section(
            "Distance to the best static weights",
            "The Aitchison distance counts ratios of weights; the L2 distance, the paper's, counts differences.",
            distances_table(comparison),
        ),
        Section(
            "Rank among static points",
            "Where GradNorm's best run stands among all static points, on the validation split and the search seed.",
            ranks_table(comparison),
        ),
        Section(
            "Cost",
            "What finding weights took on the search seed, trials that did not finish included.",
            cost_table(comparison),
        ),
    ]


def facts(data: ReportData) -> dict[str, str]:
    """The provenance less the study file."""
    return {name: text for name, text in data.provenance.items() if name != STUDY_FILE}
