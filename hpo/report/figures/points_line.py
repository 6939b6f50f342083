"""Two tasks: score over the ratio of the two weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from hpo.compare import Vector, weight_columns, weights_of
from hpo.report.figures.style import REFERENCE, STATIC, STATIC_BAND, blank, clip, plain, point_texts, recipe_style
from hpo.report.report_data import ReportData, best_runs, best_static


def line(data: ReportData, points: pd.DataFrame) -> go.Figure:
    """Draw static points as markers, E_t[w] as vertical lines, and a ring around the best static arm."""
    tasks = data.comparison.tasks
    w = weight_columns(points, tasks, "geometric")
    clipped = clip(points["score"], 0.5)
    plot = go.Figure(layout=blank(height=420))
    hover = point_texts(points, tasks)
    symbols = ["triangle-up" if beyond else "circle" for beyond in clipped.beyond]
    plot.add_scatter(
        x=w[:, 0] / w[:, 1], y=clipped.shown, mode="markers", name="static point", hovertext=hover, hoverinfo="text",
        marker={"color": STATIC, "symbol": symbols, "size": 9, "opacity": 0.8}, customdata=points["arm"].tolist(),
    )  # fmt: skip
    _add_surface(plot, data, w, clipped.top)
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


def _add_surface(plot: go.Figure, data: ReportData, w: Vector, top: float) -> None:
    """Add the fitted quadratic if it is identified, and the 95% region of its lowest point if that is located."""
    surface = data.comparison.surface
    if not surface.identified:
        return
    logs = np.log(w[:, 0] / w[:, 1])
    grid = np.exp(np.linspace(logs.min(), logs.max(), 100))
    line = {"color": REFERENCE, "width": 1.5}
    height = surface.predict(np.stack([grid, np.ones(100)], axis=1))
    height[height > top] = np.nan
    plot.add_scatter(x=grid, y=height, mode="lines", line=line, name="response surface", hoverinfo="skip")
    if surface.located:
        ratios = surface.region()[:, 0] / surface.region()[:, 1]
        plot.add_vrect(x0=ratios.min(), x1=ratios.max(), fillcolor=STATIC_BAND, line_width=0, layer="below")
        key = {"color": STATIC_BAND, "symbol": "square", "size": 12}
        plot.add_scatter(x=[None], y=[None], mode="markers", marker=key, name="its lowest point, 95% region")


def _ring_best(plot: go.Figure, data: ReportData, points: pd.DataFrame, shown: Vector) -> None:
    best = best_static(data.comparison)
    at = points.assign(shown=shown).loc[points["arm"] == (best.arm if best else "")]
    if best is not None and len(at):
        plot.add_scatter(
            x=[best.weights[0] / best.weights[1]], y=at["shown"].head(1), mode="markers", name="best static arm",
            marker={"symbol": "circle-open", "size": 18, "color": STATIC, "line": {"width": 3}}, hoverinfo="skip",
        )  # fmt: skip
