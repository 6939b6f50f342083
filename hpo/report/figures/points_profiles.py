"""More than three tasks: each point as a line over the tasks (parallel coordinates of centred log-ratios)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots
from scipy import stats

from hpo.compare import Vector, weight_columns, weights_of
from hpo.report.figures.style import REFERENCE, SCALE, STATIC, blank, clip, plain, point_texts, recipe_style
from hpo.report.report_data import ReportData, best_runs, best_static, centred_log_ratios

_COLUMNS, _PAIRS = 3, 9  # panels in a row, and in total
_TOP, _PANEL = 460, 230  # pixels
_LINES = 150  # number of points drawn, the best ones; more lines are not readable


def profiles(data: ReportData, points: pd.DataFrame) -> go.Figure:
    """Draw static points as thin lines coloured by score, and the best static arm and E_t[w] as thick lines."""
    tasks = data.comparison.tasks
    names = [plain(task) for task in tasks]
    pairs, texts = _telling_pairs(points, tasks), point_texts(points, tasks)
    rows = 1 + -(-len(pairs) // _COLUMNS)
    plot = make_subplots(
        rows=rows, cols=_COLUMNS, specs=[[{"colspan": _COLUMNS}, None, None], *[[{}] * _COLUMNS] * (rows - 1)],
        row_heights=[_TOP, *[_PANEL] * (rows - 1)], vertical_spacing=70 / (_TOP + _PANEL * (rows - 1)),
        horizontal_spacing=0.07,
    )  # fmt: skip
    plot.update_layout(blank(height=_TOP + _PANEL * (rows - 1) + 70))
    _add_points(plot, names, points, texts, data)
    runs, best = best_runs(data.comparison), best_static(data.comparison)
    for recipe, run in runs.items():
        color, symbol = recipe_style(recipe, runs)
        label = f"E_t[w], {plain(recipe)} recipe"
        _add_thick(plot, names, weights_of(run, tasks, "geometric"), label, color, symbol)
    if best is not None:
        _add_thick(plot, names, best.weights, "best static arm", STATIC, "circle")
    axis = "weight / geometric mean of the weights"
    plot.update_xaxes(type="category", row=1, col=1)  # a task may be named like a number or a date
    plot.update_yaxes(type="log", title_text=axis, tickformat="~g", dtick=1, row=1, col=1)
    for place, pair in enumerate(pairs):
        _add_pair(plot, {"row": 2 + place // _COLUMNS, "col": 1 + place % _COLUMNS}, pair, points, data)
    return plot


def _telling_pairs(points: pd.DataFrame, tasks: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return the at most nine pairs of tasks whose log-ratio, as a quadratic, best explains the scores' ranks."""
    if len(points) < 5:
        return []
    logs = np.log(weight_columns(points, tasks, "geometric"))
    ranks = stats.rankdata(points["score"])

    def unexplained(pair: tuple[int, int]) -> float:
        ratio = logs[:, pair[0]] - logs[:, pair[1]]
        X = np.stack([np.ones_like(ratio), ratio, ratio**2], axis=1)
        return float(((ranks - X @ np.linalg.lstsq(X, ranks)[0]) ** 2).sum())

    return sorted(combinations(range(len(tasks)), 2), key=unexplained)[:_PAIRS]


def _add_pair(
    plot: go.Figure, panel: dict[str, int], pair: tuple[int, int], points: pd.DataFrame, data: ReportData
) -> None:
    """Add score over the ratio of two weights, with lines for GradNorm's E_t[w] and the best static arm.

    Args:
        plot: the figure.
        panel: its "row" and "col".
        pair: the indices of the two tasks.
        points: the static points.
        data: data of the report.
    """
    tasks, (i, j) = data.comparison.tasks, pair
    w = weight_columns(points, tasks, "geometric")
    plot.add_scatter(
        x=w[:, i] / w[:, j], y=clip(points["score"], 0.5).shown, mode="markers", showlegend=False,
        marker={"color": REFERENCE, "size": 6, "opacity": 0.8}, customdata=points["arm"].tolist(),
        hovertext=point_texts(points, tasks), hoverinfo="text", **panel,
    )  # fmt: skip
    runs, best = best_runs(data.comparison), best_static(data.comparison)
    for recipe, run in runs.items():
        at = weights_of(run, tasks, "geometric")
        color = recipe_style(recipe, runs)[0]
        plot.add_vline(at[i] / at[j], line={"color": color, "width": 2, "dash": "dot"}, **panel)
    if best is not None and np.isfinite(best.weights).all():
        line = {"color": STATIC, "width": 2}
        plot.add_vline(best.weights[i] / best.weights[j], line=line, **panel)
    title = f"w {plain(tasks[i])} / w {plain(tasks[j])}"
    plot.update_xaxes(type="log", tickformat="~g", dtick=1, title_text=title, **panel)
    if panel["col"] == 1:
        plot.update_yaxes(title_text="score, %", **panel)


def _relative(w: Vector) -> Vector:
    relative: Vector = np.exp(centred_log_ratios(w))
    return relative


def _add_points(plot: go.Figure, names: list[str], points: pd.DataFrame, texts: list[str], data: ReportData) -> None:
    points = points.head(_LINES)
    tasks = data.comparison.tasks
    low, top = float(points["score"].min()), clip(points["score"], 0.5).top
    shade = ((points["score"].clip(upper=top) - low) / ((top - low) or 1.0)).tolist()
    colors = sample_colorscale(SCALE, shade)
    relative = _relative(weight_columns(points, tasks, "geometric"))
    rows = list(zip(points["arm"], relative, texts[:_LINES], colors, strict=True))
    for arm, heights, text, color in reversed(rows):  # the best on top
        plot.add_scatter(
            x=names, y=heights, mode="lines", line={"color": color, "width": 1.5}, opacity=0.8, showlegend=False,
            hovertext=text, hoverinfo="text", customdata=[arm] * len(names), row=1, col=1,
        )  # fmt: skip
    bar = {
        "title": {"text": "score on validation, %", "side": "top", "font": {"size": 13}},
        "orientation": "h", "thickness": 10, "len": 0.5, "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom",
        "outlinewidth": 0,
    }  # fmt: skip
    scale = {"color": [low, top], "colorscale": SCALE, "cmin": low, "cmax": top, "colorbar": bar, "opacity": 0}
    plot.add_scatter(
        x=names[:1] * 2, y=[1, 1], mode="markers", marker=scale, hoverinfo="skip", showlegend=False, row=1, col=1
    )  # carries the colour bar


def _add_thick(plot: go.Figure, names: list[str], w: Vector, label: str, color: str, symbol: str) -> None:
    hover = [f"{label}<br>w {name} {value:.3g}" for name, value in zip(names, w, strict=True)]
    plot.add_scatter(
        x=names, y=_relative(w), mode="lines+markers", name=label, line={"color": color, "width": 4},
        marker={"symbol": symbol, "size": 10}, hovertext=hover, hoverinfo="text", row=1, col=1,
    )  # fmt: skip
