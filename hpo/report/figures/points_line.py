"""Two tasks: score over the ratio of the two weights."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from hpo.compare import weights_of
from hpo.report.data import ReportData, Vector, best_runs, best_static, weight_columns
from hpo.report.figures.style import STATIC, blank, clip, plain, recipe_style
from hpo.report.labels import arm_label
from hpo.report.numbers import signed


def line(data: ReportData, points: pd.DataFrame) -> go.Figure:
    """Static points as markers, E_t[w] as vertical lines, the best static arm ringed."""
    tasks = data.comparison.tasks
    w = weight_columns(points, tasks, "geometric")
    clipped = clip(points["score"], 0.5)
    plot = go.Figure(layout=blank(height=420))
    hover = [
        f"{plain(arm_label(a))}<br>score {signed(s)}" for a, s in zip(points["arm"], points["score"], strict=True)
    ]
    symbols = ["triangle-up" if beyond else "circle" for beyond in clipped.beyond]
    plot.add_scatter(
        x=w[:, 0] / w[:, 1], y=clipped.shown, mode="markers", name="static point", hovertext=hover, hoverinfo="text",
        marker={"color": STATIC, "symbol": symbols, "size": 9, "opacity": 0.8},
    )  # fmt: skip
    _ring_best(plot, data, points, clipped.shown)
    runs = best_runs(data.comparison)
    for recipe, run in runs.items():
        a, b = weights_of(run, tasks, "geometric")
        style = {"color": recipe_style(recipe, runs)[0], "width": 2, "dash": "dot"}
        plot.add_vline(a / b, line=style)
        plot.add_scatter(x=[None], y=[None], mode="lines", line=style, name=f"E_t[w], {plain(recipe)} recipe")
    axis = f"w {plain(tasks[0])} / w {plain(tasks[1])}"
    plot.update_xaxes(type="log", title_text=axis, tickformat="~g", dtick=1)
    plot.update_yaxes(title_text="score on validation, %")
    return plot


def _ring_best(plot: go.Figure, data: ReportData, points: pd.DataFrame, shown: Vector) -> None:
    best = best_static(data.comparison)
    at = points.assign(shown=shown).loc[points["arm"] == (best.arm if best else "")]
    if best is not None and len(at):
        plot.add_scatter(
            x=[best.weights[0] / best.weights[1]], y=at["shown"].head(1), mode="markers", name="best static arm",
            marker={"symbol": "circle-open", "size": 18, "color": STATIC, "line": {"width": 3}}, hoverinfo="skip",
        )  # fmt: skip
