"""The report's figures, one module each. To add one, write its module and add it to `FIGURES`."""

from __future__ import annotations

from typing import Protocol

import plotly.graph_objects as go

from hpo.report.figures import (
    alpha,
    arms,
    budget,
    cost,
    distance,
    dynamics,
    overfitting,
    static_points,
    trajectories,
    tuning,
)
from hpo.report.report_data import ReportData


class Figure(Protocol):
    """Interface of the modules in this folder."""

    TITLE: str
    MISSING: str
    """Reason that is shown in place of the figure if its data are missing."""
    WIDE: bool
    """True if the figure takes the whole width of a wide page."""

    def caption(self, data: ReportData, /) -> str:
        """Return a sentence or two on how to read the figure."""

    def figure(self, data: ReportData, /) -> go.Figure | None:
        """Draw the figure; ``None`` if its data are missing."""


SEARCH_ONLY = ("static_points", "budget", "distance")
"""Figures, with their tables, that say nothing without a static search."""

TUNED_ONLY = ("tuning",)
"""Those that say nothing unless the study tunes arguments of the problem."""

# Their order is the order of the report.
FIGURES: dict[str, Figure] = {
    "trajectories": trajectories,
    "static_points": static_points,
    "arms": arms,
    "tuning": tuning,
    "budget": budget,
    "distance": distance,
    "alpha": alpha,
    "overfitting": overfitting,
    "dynamics": dynamics,
    "cost": cost,
}


def figures_of(data: ReportData) -> dict[str, Figure]:
    """Return the figures that belong in the report of this study, in order; their data may yet be missing."""
    found = data.comparison
    left_out = (() if found.searched else SEARCH_ONLY) + (() if found.tuning.sets else TUNED_ONLY)
    return {name: figure for name, figure in FIGURES.items() if name not in left_out}
