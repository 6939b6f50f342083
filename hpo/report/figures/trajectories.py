"""w(t) of each recipe's best alpha, its averages and the best static weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo.compare import weights_of
from hpo.core.trial import AVERAGES
from hpo.report.figures.style import add_run_title, blank, log_ticks, plain, task_line, thinned
from hpo.report.report_data import ReportData, best_runs, best_static

TITLE = "How GradNorm moved the weights"
MISSING = "There is no trajectory of a GradNorm run."
WIDE = True
_POINTS = 600  # points of a curve; more would only make the file larger
_SYMBOLS = dict(zip(AVERAGES, ("circle", "diamond", "square", "cross"), strict=True))


def caption(_: ReportData) -> str:
    """Return the explanation below the figure."""
    return (
        "Left: w(t) over the steps of each recipe's best run. Right: its averages E_t[w]. If markers lie on the "
        "dashed line of their colour, GradNorm found the best static weights."
    )


def figure(data: ReportData) -> go.Figure | None:
    """Draw a row for each recipe: curves left, averages right, both with the best static weights."""
    recipes = {recipe: table for recipe, table in sorted(data.trajectories.items()) if len(table)}
    if not recipes:
        return None
    runs = best_runs(data.comparison)
    plot = make_subplots(
        rows=len(recipes), cols=2, shared_yaxes=True, column_widths=[0.8, 0.2], horizontal_spacing=0.02,
        vertical_spacing=0.16 / len(recipes) + 0.02 * (len(recipes) > 1),
    )  # fmt: skip
    for row, (recipe, table) in enumerate(recipes.items(), 1):
        _add_averages(plot, row, runs.get(recipe), data)
        _add_curves(plot, row, table, data)
        add_run_title(plot, row, recipe, runs.get(recipe))
        lowest = row == len(recipes)
        plot.update_xaxes(
            tickangle=-40, range=[-0.6, len(AVERAGES) - 0.4], showticklabels=lowest, row=row, col=2
        )  # fmt: skip
    plot.update_layout(blank(height=70 + 320 * len(recipes)))
    plot.update_layout(legend_y=1 + 0.1 / len(recipes))
    plot.update_xaxes(title_text="step", row=len(recipes), col=1)
    plot.update_yaxes(title_text="w", col=1)
    reach = _range(recipes.values(), data)
    plot.update_yaxes(type="log", tickformat="~g", range=reach, **log_ticks(*reach))
    return plot


def _range(tables: Iterable[pd.DataFrame], data: ReportData) -> list[float]:
    """Return the powers of ten that contain all curves and the best static weights, for all recipes."""
    columns = [f"w/{task}" for task in data.comparison.tasks]
    every = np.concatenate([table[columns].to_numpy(dtype=np.float64).ravel() for table in tables])
    static = best_static(data.comparison)
    every = every if static is None else np.append(every, static.weights)
    logs = np.log10(every[np.isfinite(every) & (every > 0)])
    if not len(logs):
        return [-1.0, 1.0]
    return [float(logs.min()) - 0.2, float(logs.max()) + 0.2]


def _add_curves(plot: go.Figure, row: int, table: pd.DataFrame, data: ReportData) -> None:
    table = thinned(table, _POINTS)
    static = best_static(data.comparison)
    for place, task in enumerate(data.comparison.tasks):
        w, line = table[f"w/{task}"], task_line(place)
        name = plain(task)
        plot.add_scatter(
            x=table["step"], y=w.where(w > 0), mode="lines", name=name, legendgroup=name, showlegend=row == 1,
            line={**line, "width": 2}, hovertemplate=f"{name}<br>step %{{x}}: w %{{y:.3g}}<extra></extra>",
            row=row, col=1,
        )  # fmt: skip
        if static is not None and np.isfinite(static.weights[place]):
            level = {"color": line["color"], "dash": "dash", "width": 1.5}
            plot.add_hline(static.weights[place], line=level, layer="below", row=row, col="all")
    if static is not None and row == 1:
        key = {"color": "#808080", "dash": "dash", "width": 1.5}
        plot.add_scatter(x=[None], y=[None], mode="lines", name="best static weights", line=key, row=1, col=1)


def _add_averages(plot: go.Figure, row: int, run: pd.Series | None, data: ReportData) -> None:
    if run is None:
        return
    tasks = data.comparison.tasks
    values = {average: weights_of(run, tasks, average) for average in AVERAGES}
    names = [average.replace("_", " ") for average in AVERAGES]
    for place, task in enumerate(tasks):
        marker = {"color": task_line(place)["color"], "size": 9, "symbol": list(_SYMBOLS.values())}
        name = plain(task)
        plot.add_scatter(
            x=names, y=[values[average][place] for average in AVERAGES], mode="markers", marker=marker,
            legendgroup=name, showlegend=False, row=row, col=2,
            hovertemplate=f"{name}<br>%{{x}} average: w %{{y:.3g}}<extra></extra>",
        )  # fmt: skip
