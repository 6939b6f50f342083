"""Gradient norms and training rates of each recipe's best run over time."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo.compare import Vector
from hpo.report.figures.style import add_run_title, blank, plain, task_line
from hpo.report.report_data import ReportData, best_runs

TITLE = "Gradient norms and training rates"
MISSING = "There is no trajectory of a GradNorm run with gradient norms."
WIDE = True
_BINS = 150  # points of a curve, each a mean over a stretch of the run, since single steps are noisy
_PANELS = {"G": "G / mean G", "r": "r"}
_ROW = 230  # pixels
_TICKS = [0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 100]


def caption(_: ReportData) -> str:
    """Return the explanation below the figure."""
    return (
        "G is the norm of a task's weighted gradient on the shared layer, here relative to the mean over tasks. r is "
        "the task's relative inverse training rate, above 1 for a slow task. GradNorm pulls G / mean G towards "
        "r^alpha, which is 1 if alpha is 0."
    )


def figure(data: ReportData) -> go.Figure | None:
    """Draw a row for each recipe, G on the left and r on the right, with a curve for each task."""
    tables = {recipe: _relative(table, data.comparison.tasks) for recipe, table in sorted(data.trajectories.items())}
    tables = {recipe: table for recipe, table in tables.items() if len(table)}
    if not tables:
        return None
    runs = best_runs(data.comparison)
    rows = len(tables)
    plot = make_subplots(rows=rows, cols=2, vertical_spacing=0.24 / rows, horizontal_spacing=0.08)
    for row, (recipe, table) in enumerate(tables.items(), 1):
        for column, (kind, title) in enumerate(_PANELS.items(), 1):
            _add_panel(plot, row, column, table, kind, data)
            plot.update_yaxes(title_text=title, type="log", tickvals=_TICKS, row=row, col=column)
        add_run_title(plot, row, recipe, runs.get(recipe))
    plot.update_layout(blank(height=70 + _ROW * rows))
    plot.update_layout(legend_y=1 + 0.12 / rows)
    plot.update_xaxes(title_text="step", row=rows)
    return plot


def _relative(table: pd.DataFrame, tasks: tuple[str, ...]) -> pd.DataFrame:
    """Average G relative to its mean over tasks, and r, over stretches of the measured steps."""
    names = {kind: [f"{kind}/{task}" for task in tasks] for kind in _PANELS}
    columns = [*names["G"], *names["r"]]
    if not set(columns) <= set(table.columns):
        return pd.DataFrame()
    table = table[["step", *columns]].dropna()
    if table.empty:
        return table
    G = table[names["G"]].to_numpy(dtype=np.float64)
    mean: Vector = G.mean(axis=1, keepdims=True)
    table = table.assign(**dict(zip(names["G"], (G / np.where(mean > 0, mean, np.nan)).T, strict=True)))
    stretch = np.arange(len(table)) * _BINS // max(len(table), _BINS)
    return table.groupby(stretch).mean()


def _add_panel(plot: go.Figure, row: int, column: int, table: pd.DataFrame, kind: str, data: ReportData) -> None:
    for place, task in enumerate(data.comparison.tasks):
        name, y = plain(task), table[f"{kind}/{task}"]
        plot.add_scatter(
            x=table["step"], y=y.where(y > 0), mode="lines", line={**task_line(place), "width": 1.8}, name=name,
            legendgroup=name, showlegend=row == column == 1, row=row, col=column,
            hovertemplate=f"{name}<br>step %{{x:.0f}}: {_PANELS[kind]} %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
