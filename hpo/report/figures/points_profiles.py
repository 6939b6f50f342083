"""More than three tasks: each point as a line over the tasks (parallel coordinates of centred log-ratios)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from hpo.compare import weights_of
from hpo.report.data import ReportData, Vector, best_runs, best_static, centred_log_ratios, weight_columns
from hpo.report.figures.style import SCALE, STATIC, blank, clip, plain, recipe_style
from hpo.report.labels import arm_label
from hpo.report.numbers import signed


def profiles(data: ReportData, points: pd.DataFrame) -> go.Figure:
    """Static points as thin lines coloured by score; the best static arm and E_t[w] as thick ones."""
    tasks = data.comparison.tasks
    names = [plain(task) for task in tasks]
    plot = go.Figure(layout=blank(height=520))
    _add_points(plot, names, points, weight_columns(points, tasks, "geometric"))
    runs, best = best_runs(data.comparison), best_static(data.comparison)
    for recipe, run in runs.items():
        color, symbol = recipe_style(recipe, runs)
        label = f"E_t[w], {plain(recipe)} recipe"
        _add_thick(plot, names, weights_of(run, tasks, "geometric"), label, color, symbol)
    if best is not None:
        _add_thick(plot, names, best.weights, "best static arm", STATIC, "circle")
    axis = "weight / geometric mean of the weights"
    plot.update_yaxes(type="log", title_text=axis, tickformat="~g", dtick=1)
    return plot


def _relative(w: Vector) -> Vector:
    relative: Vector = np.exp(centred_log_ratios(w))
    return relative


def _add_points(plot: go.Figure, names: list[str], points: pd.DataFrame, w: Vector) -> None:
    low, top = float(points["score"].min()), clip(points["score"], 0.5).top
    shade = ((points["score"].clip(upper=top) - low) / ((top - low) or 1.0)).tolist()
    colors = sample_colorscale(SCALE, shade)
    rows = list(zip(points["arm"], points["score"], _relative(w), colors, strict=True))
    for arm, score, relative, color in reversed(rows):  # the best on top
        plot.add_scatter(
            x=names, y=relative, mode="lines", line={"color": color, "width": 1.5}, opacity=0.8, showlegend=False,
            hovertext=f"{plain(arm_label(arm))}<br>score {signed(score)}", hoverinfo="text",
        )  # fmt: skip
    bar = {
        "title": {"text": "score on validation, %", "side": "top", "font": {"size": 13}},
        "orientation": "h", "thickness": 10, "len": 0.9, "y": -0.16, "yanchor": "top", "outlinewidth": 0,
    }  # fmt: skip
    scale = {"color": [low, top], "colorscale": SCALE, "cmin": low, "cmax": top, "colorbar": bar, "opacity": 0}
    plot.add_scatter(
        x=names[:1] * 2, y=[1, 1], mode="markers", marker=scale, hoverinfo="skip", showlegend=False
    )  # carries the colour bar


def _add_thick(plot: go.Figure, names: list[str], w: Vector, label: str, color: str, symbol: str) -> None:
    hover = [f"{label}<br>w {name} {value:.3g}" for name, value in zip(names, w, strict=True)]
    plot.add_scatter(
        x=names, y=_relative(w), mode="lines+markers", name=label, line={"color": color, "width": 4},
        marker={"symbol": symbol, "size": 10}, hovertext=hover, hoverinfo="text",
    )  # fmt: skip
