"""The report's figures, one file each: to add one, write its module and name it in `FIGURES`."""

from __future__ import annotations

from typing import Protocol

import plotly.graph_objects as go

from hpo.report.figures import alpha, arms, budget, cost, distance, dynamics, overfitting, static_points, trajectories
from hpo.report.report_data import ReportData


class Figure(Protocol):
    """What a module of this folder has."""

    TITLE: str
    MISSING: str
    """Said in place of the figure where the data does not carry it."""
    WIDE: bool
    """Whether it takes the whole width of a wide page."""

    def caption(self, data: ReportData, /) -> str:
        """How to read it, in a sentence or two."""

    def figure(self, data: ReportData, /) -> go.Figure | None:
        """The figure, or ``None`` where the data does not carry it."""


# Their order is the order of the report.
FIGURES: dict[str, Figure] = {
    "trajectories": trajectories,
    "static_points": static_points,
    "arms": arms,
    "budget": budget,
    "distance": distance,
    "alpha": alpha,
    "overfitting": overfitting,
    "dynamics": dynamics,
    "cost": cost,
}
