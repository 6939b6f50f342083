"""The sections of the report in order, each with a figure and tables; page and Markdown show the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from hpo.compare import Comparison
from hpo.report.figures import FIGURES, figures_of
from hpo.report.report_data import ReportData
from hpo.report.sentences import rival_arm
from hpo.report.tables import (
    arms_table,
    cost_table,
    distances_table,
    figure4_table,
    gap_table,
    limits_table,
    metrics_table,
    ranks_table,
    shortlist_table,
    surface_table,
    tuning_table,
)
from hpo.report.tuning_words import tuning_sentences

STUDY_FILE = "study file"  # the only entry of the provenance with several lines


class Table(NamedTuple):
    """A table with its caption; ``folded`` if the figure shows most of its content."""

    caption: str
    content: pd.DataFrame
    folded: bool = False


class Section(NamedTuple):
    """One part of the report.

    Attributes:
        figure: a key of `hpo.report.figures.FIGURES`, which has title, caption and width.
        tables: the tables below the figure, none of them empty.
    """

    figure: str
    tables: tuple[Table, ...]

    @property
    def title(self) -> str:
        """Title of the figure."""
        return FIGURES[self.figure].TITLE

    @property
    def missing(self) -> str:
        """Reason why the figure is not shown, if the data for it are missing."""
        return FIGURES[self.figure].MISSING


def sections(data: ReportData) -> list[Section]:
    """Return the sections between the verdict and the provenance, one for each figure of the study."""
    return [Section(name, _filled(name, data)) for name in figures_of(data)]


def _filled(name: str, data: ReportData) -> tuple[Table, ...]:
    tables = TABLES[name](data) if name in TABLES else ()
    return tuple(table for table in tables if not table.content.empty)


def _points_tables(data: ReportData) -> tuple[Table, ...]:
    found = data.comparison
    lowest, region = surface_table(found), _region_text(found)
    if lowest.empty:
        return (Table(f"{region} {surface_text(found)}", distances_table(found)),)
    return Table(region, distances_table(found)), Table(surface_text(found), lowest)


def _arms_tables(data: ReportData) -> tuple[Table, ...]:
    return (
        *_shortlist_tables(data),
        Table(
            f"Best on validation first. Regret and verdict compare one arm with {rival_arm(data.comparison)}, "
            "paired by seed; the intervals are at 95%. Chosen in resamples: share of resamples of the seeds in which "
            "the arm is the best GradNorm arm or the one that it is compared with. w are the weights, which sum to "
            "the number of tasks.",
            arms_table(data),
        ),
        Table(
            "The limits, on validation: by how many percent a task is behind its single-task network, paired by "
            "seed, with its one-sided bound at 95%.",
            limits_table(data.comparison),
            folded=True,
        ),
        Table(
            "Metrics on the test split, mean over seeds. The arms on the Pareto front are those that no other arm "
            "equals or beats on every task.",
            metrics_table(data),
        ),
    )


def _shortlist_tables(data: ReportData) -> tuple[Table, ...]:
    if data.comparison.shortlist.empty:
        return ()
    caption = (
        "The shortlist: arms that need no search, on validation. Close ones are trained on more seeds. Averages of "
        "GradNorm within 10 % of the weights of another arm are not trained again. All scores are relative to the "
        "single-task networks of the search seed."
    )
    return (Table(caption, shortlist_table(data.comparison), folded=True),)


def _tuning_tables(data: ReportData) -> tuple[Table, ...]:
    found = data.comparison
    caption = (
        "Each arm with the problem's own arguments and with its best ones, chosen on the search seed's validation. "
        "Gain from tuning: on test, paired by seed, with its 95% interval."
    )
    return (Table(" ".join([*tuning_sentences(found), caption]), tuning_table(found)),)


def _budget_tables(data: ReportData) -> tuple[Table, ...]:
    table = ranks_table(data.comparison)
    if not table.empty:  # few recipes and many quantities: recipes as columns fit half a page, and a phone
        table = table.set_index("Recipe").T.rename_axis(columns=None).reset_index(names="Best run of the recipe")
    return (Table(_rank_text(data.comparison), table),)


def _distance_tables(data: ReportData) -> tuple[Table, ...]:
    return (
        Table(
            "The paper's Figure 4 as a number: Spearman's rho of score and distance. If the score is bowl-shaped, it "
            "correlates with the distance to any point near the minimum, so rho alone is weak evidence. The "
            "percentile is the percentage of random points in the searched region with a smaller rho; near 50, "
            "E_t[w] is no better than a random point.",
            figure4_table(data.comparison),
        ),
    )


def _gap_tables(data: ReportData) -> tuple[Table, ...]:
    return (Table("Metrics on training and test data", gap_table(data.comparison), folded=True),)


def _cost_tables(data: ReportData) -> tuple[Table, ...]:
    return (
        Table(
            "All trials on the search seed, also those that did not finish. Trials of one cohort share its seconds "
            "equally.",
            cost_table(data.comparison),
        ),
    )


TABLES: dict[str, Callable[[ReportData], tuple[Table, ...]]] = {  # by figure; not every figure has tables
    "static_points": _points_tables,
    "arms": _arms_tables,
    "tuning": _tuning_tables,
    "budget": _budget_tables,
    "distance": _distance_tables,
    "overfitting": _gap_tables,
    "cost": _cost_tables,
}


def _region_text(comparison: Comparison) -> str:
    """Return the caption of the distances."""
    sigma, _ = comparison.noise
    points = len(comparison.region)
    if not math.isfinite(sigma):
        as_good = "Equally good points are unknown, because their noise is estimated from at least two confirm seeds."
    else:
        if points > 1:
            as_good = f"The score of one seed cannot distinguish {points} static points, one of which is the best. "
        else:
            as_good = "The score of one seed distinguishes the best static point from all others. "
        as_good += f"The standard deviation of such a score is {sigma:.2g} percentage points."
    return (
        "Distance of E_t[w] to the best static weights and to the nearest equally good static point. The Aitchison "
        "distance compares ratios of weights, the L2 distance of the paper compares differences. The largest factor "
        f"is that between two weights of one task. {as_good}"
    )


def surface_text(comparison: Comparison) -> str:
    """Return the result of the response surface in words."""
    surface = comparison.surface
    if not surface.identified:
        return f"The response surface is not identified: {surface.reason}."
    text = (
        f"The quadratic response surface predicts points left out of its fit (R\N{SUPERSCRIPT TWO} {surface.r2:.2f})."
    )
    if not surface.located:
        return f"{text} It does not locate the best weights: {surface.reason}."
    return f"{text} Its lowest point locates the best weights:"


def _rank_text(comparison: Comparison) -> str:
    if comparison.random_points:
        interval, bound = "a Clopper-Pearson 95% interval for all points that the design can draw", ""
    else:
        bound = " that treats the points as if they had been drawn at random"
        interval = "the 95% range when noise of the size of the variation between seeds is added to every score"
    return (
        "Rank of each recipe's best run among all static points (validation, search seed); in parentheses, "
        f"{interval}. Below it, the number of static points of which the best is expected to match that run, with a "
        f"95% interval{bound}, and their cost relative to the whole alpha sweep and to one run, as if alpha were "
        "known."
    )


def facts(data: ReportData) -> dict[str, str]:
    """Return the provenance without the study file."""
    return {name: text for name, text in data.provenance.items() if name != STUDY_FILE}
