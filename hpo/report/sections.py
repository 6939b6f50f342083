"""The sections of the report in their order, with figures by name and tables; page and Markdown show the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from hpo.compare import Comparison
from hpo.report.figures import FIGURES
from hpo.report.report_data import ReportData
from hpo.report.tables import (
    arms_table,
    cost_table,
    distances_table,
    figure4_table,
    gap_table,
    metrics_table,
    ranks_table,
    shortlist_table,
)

STUDY_FILE = "study file"  # the one entry of the provenance that has many lines


class Table(NamedTuple):
    """A table with what it shows; ``folded`` away until it is asked for, where the figure says the most of it."""

    caption: str
    content: pd.DataFrame
    folded: bool = False


class Section(NamedTuple):
    """One part of the report.

    Attributes:
        figure: a key of `hpo.report.figures.FIGURES`; it brings title, caption and width.
        tables: below the figure.
    """

    figure: str
    tables: tuple[Table, ...]

    @property
    def title(self) -> str:
        """What it answers."""
        return FIGURES[self.figure].TITLE

    @property
    def wide(self) -> bool:
        """Whether it takes the whole width of a wide page."""
        return FIGURES[self.figure].WIDE


def sections(data: ReportData) -> list[Section]:
    """Everything between the verdict and the provenance: a section for each figure, with the tables beside it."""
    return [Section(name, TABLES[name](data) if name in TABLES else ()) for name in FIGURES]


def _points_tables(data: ReportData) -> tuple[Table, ...]:
    return (Table(_region_words(data.comparison), distances_table(data.comparison)),)


def _arms_tables(data: ReportData) -> tuple[Table, ...]:
    return (
        *_shortlist_tables(data),
        Table(
            "Best on validation first. Regret compares each arm by itself with the best static arm, paired "
            "by seed; chosen again: in how many resamples of the seeds it is the best of its side; w are the "
            "weights, whose sum is the number of tasks.",
            arms_table(data),
        ),
        Table(
            "Metrics on the test split, mean over seeds. On the Pareto front are the arms that no other arm "
            "equals or beats on every task.",
            metrics_table(data),
        ),
    )


def _shortlist_tables(data: ReportData) -> tuple[Table, ...]:
    if data.comparison.shortlist.empty:
        return ()
    caption = (
        "The shortlist: arms that need no search, on validation. Close ones are trained on more seeds; "
        "all scores are relative to the single-task networks of the search seed."
    )
    return (Table(caption, shortlist_table(data.comparison), folded=True),)


def _budget_tables(data: ReportData) -> tuple[Table, ...]:
    return (Table(_rank_words(data.comparison), ranks_table(data.comparison)),)


def _distance_tables(data: ReportData) -> tuple[Table, ...]:
    return (
        Table(
            "The paper's Figure 4 as a number. Any point near the middle of a bowl correlates: what counts "
            "is the percentile, for how many of 100 random points of the searched region rho is smaller.",
            figure4_table(data.comparison),
        ),
    )


def _gap_tables(data: ReportData) -> tuple[Table, ...]:
    return (Table("Metrics on training and test data", gap_table(data.comparison), folded=True),)


def _cost_tables(data: ReportData) -> tuple[Table, ...]:
    return (
        Table(
            "On the search seed, trials that did not finish included. Seconds of trials that were trained at "
            "once are equal shares.",
            cost_table(data.comparison),
        ),
    )


TABLES: dict[str, Callable[[ReportData], tuple[Table, ...]]] = {  # by figure, of those that have any
    "static_points": _points_tables,
    "arms": _arms_tables,
    "budget": _budget_tables,
    "distance": _distance_tables,
    "overfitting": _gap_tables,
    "cost": _cost_tables,
}


def _region_words(comparison: Comparison) -> str:
    """What the distances are to, and what the response surface says."""
    sigma, _ = comparison.noise
    points = len(comparison.region)
    noise = f" (noise of one score: {sigma:.2g} percentage points)"
    if not math.isfinite(sigma):
        as_good = "Which points are as good is not known without the noise of a score, which takes two confirm seeds."
    elif points > 1:
        as_good = (
            f"{points} static points, the best one among them, cannot be told from it by one seed's score{noise}."
        )
    else:
        as_good = f"No other static point is as good as the best one by one seed's score{noise}."
    return (
        "Distance of E_t[w] to the best static weights, and to the nearest static point that is as good: Aitchison "
        f"counts ratios of weights, L2, the paper's, differences. {as_good} {surface_words(comparison)}"
    )


def surface_words(comparison: Comparison) -> str:
    """What the response surface says, in plain words."""
    surface = comparison.surface
    if not surface.identified:
        return f"Response surface not identified: {surface.reason}."
    fit = f"The quadratic response surface predicts points it has not seen (leave-one-out R\u00b2 {surface.r2:.2f})"
    if not surface.located:
        return f"{fit}, but does not locate the best weights: {surface.reason}."
    weights = ", ".join(f"{task} {w:.3g}" for task, w in zip(comparison.tasks, surface.optimum, strict=True))
    return f"{fit}; its lowest point, score {surface.score:+.2f}, is at {weights}."


def _rank_words(comparison: Comparison) -> str:
    if comparison.random_points:
        interval = "in brackets the Clopper-Pearson 95% interval for all points that the design can draw"
    else:
        interval = "in brackets 95% of the ranks when every score is moved by noise of the size that seeds make"
    return (
        "Where the best run of each recipe stands among all static points (validation, search seed); "
        f"{interval}. Then how many points a static search must try to expect one as good, with a 95% interval, and "
        "what those cost against the whole alpha sweep, and against one run, as if alpha were known."
    )


def facts(data: ReportData) -> dict[str, str]:
    """The provenance less the study file."""
    return {name: text for name, text in data.provenance.items() if name != STUDY_FILE}
