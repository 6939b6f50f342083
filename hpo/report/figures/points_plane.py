"""Three tasks: the plane of centred log-ratios, where straight distance is the Aitchison distance."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from scipy.spatial import ConvexHull, Delaunay, QhullError

from hpo.compare import Vector, weight_columns, weights_of
from hpo.report.figures.style import (
    REFERENCE,
    SCALE,
    STATIC,
    blank,
    clip,
    plain,
    point_texts,
    recipe_style,
    thinned,
    weights_text,
)
from hpo.report.report_data import ReportData, best_runs, best_static, centred_log_ratios

_ANGLES = np.radians([90, 210, 330])  # of the rays along which one weight grows and the others shrink equally
_RAYS: Vector = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_BETWEEN = math.radians(30)  # midway between two rays, the place of the rings' numbers
_PATH_POINTS = 300
_CELLS = 120  # of the heat map, along a side


def plane(data: ReportData, points: pd.DataFrame) -> go.Figure:
    """Draw static points coloured by score, the paths of w(t), E_t[w] and the best static arm."""
    w = weight_columns(points, data.comparison.tasks, "geometric")
    places = _places(w)
    marked = _marked(data)
    every = np.vstack([places, *(_places(weights)[None] for weights in marked.values())])
    reach = 1.12 * float(np.nanmax(np.linalg.norm(every, axis=1)))
    plot = go.Figure(layout=_layout(reach))
    _add_surface(plot, data, points, reach)
    _add_frame(plot, data, reach)
    _add_points(plot, data, points, places)
    _add_paths(plot, data)
    _add_marked(plot, data, marked)
    return plot


def _places(w: ArrayLike) -> Vector:
    """Map weights (..., 3) to places (..., 2): ``sqrt(2/3) sum_i clr_i u_i`` with unit rays u_i keeps distances."""
    places: Vector = math.sqrt(2 / 3) * centred_log_ratios(w) @ _RAYS
    return places


def _marked(data: ReportData) -> dict[str, Vector]:
    """Return the weights with large markers: E_t[w] by recipe, and the best static arm under the empty name."""
    runs, best = best_runs(data.comparison), best_static(data.comparison)
    found = {recipe: weights_of(run, data.comparison.tasks, "geometric") for recipe, run in runs.items()}
    return found | ({"": best.weights} if best is not None else {})


def _add_surface(plot: go.Figure, data: ReportData, points: pd.DataFrame, reach: float) -> None:
    """Add the fitted quadratic as a heat map between the points, if identified, and its lowest point's region."""
    surface = data.comparison.surface
    if not surface.identified:
        return
    axis = np.linspace(-reach, reach, _CELLS)
    places = np.stack(np.meshgrid(axis, axis), axis=-1)
    height = surface.predict(np.exp(places @ _RAYS.T * math.sqrt(2 / 3)))  # the inverse of `_places`
    searched = Delaunay(_places(weight_columns(points, data.comparison.tasks, "geometric")))  # a surface spans it
    height[searched.find_simplex(places) < 0] = np.nan
    low, top = _scale(points)
    plot.add_heatmap(
        x=axis.round(3), y=axis.round(3), z=np.clip(height, low, top).round(2), colorscale=SCALE, zmin=low, zmax=top,
        opacity=0.28, showscale=False, hoverinfo="skip", zsmooth="best",
    )  # fmt: skip
    if surface.located:
        x, y = _outline(_places(surface.region())).T
        plot.add_scatter(
            x=x, y=y, mode="lines", line={"color": STATIC, "width": 2, "dash": "dash"}, hoverinfo="skip",
            name="lowest point of the response surface, 95% region",
        )  # fmt: skip


def _outline(places: Vector) -> Vector:
    """Return the convex hull of points (n, 2) as a closed line; the points unchanged if they lie on a line."""
    try:
        corners: Vector = places[ConvexHull(places).vertices]
    except QhullError:
        return places
    return np.vstack([corners, corners[:1]])


def _scale(points: pd.DataFrame) -> tuple[float, float]:
    """Return the range of scores that the colours span."""
    return float(points["score"].min()), clip(points["score"], 0.5).top


def _add_frame(plot: go.Figure, data: ReportData, reach: float) -> None:
    """Add rays with the tasks' names, and rings."""
    frame = {"color": REFERENCE, "width": 0.7}
    for power in _powers(reach):
        _add_ring(plot, power, frame)
    for place, task in enumerate(data.comparison.tasks):
        x, y = reach * _RAYS[place]
        plot.add_scatter(
            x=[0, x], y=[0, y], mode="lines", line=frame, opacity=0.5, hoverinfo="skip", showlegend=False
        )
        side = {"xanchor": ("center", "left", "right")[place], "yanchor": "top" if place else "bottom"}
        text = f"more weight on<br><b>{plain(task)}</b>"
        plot.add_annotation(
            x=(0, -1.1, 1.1)[place] * reach, y=y * (1.4 if place else 1), text=text, showarrow=False, **side
        )


def _powers(reach: float) -> range:
    """Return the powers of ten of at most five rings."""
    most = int(reach * math.sqrt(1.5) / math.log(10))
    step = -(-most // 5) or 1
    return range(step, most + 1, step)


def _add_ring(plot: go.Figure, power: int, line: dict[str, object]) -> None:
    """Add the ring on which, at a task's ray, its weight is 10**power times each of the other two."""
    radius, turn = power * math.log(10) / math.sqrt(1.5), np.linspace(0, 2 * np.pi, 90)
    plot.add_scatter(
        x=radius * np.cos(turn), y=radius * np.sin(turn), mode="lines", line=line, opacity=0.5, hoverinfo="skip",
        showlegend=False,
    )  # fmt: skip
    text = f"\N{MULTIPLICATION SIGN} {10**power:,}"
    x, y = radius * math.cos(_BETWEEN), radius * math.sin(_BETWEEN)
    plot.add_annotation(x=x, y=y, text=text, showarrow=False, font_size=10)


def _add_points(plot: go.Figure, data: ReportData, points: pd.DataFrame, places: Vector) -> None:
    hover = point_texts(points, data.comparison.tasks)
    (low, top), equals = _scale(points), set(data.comparison.region["arm"])
    bar = {
        "title": {"text": "score on validation, %", "side": "top", "font": {"size": 13}},
        "orientation": "h", "thickness": 10, "len": 0.9, "y": -0.04, "yanchor": "top", "outlinewidth": 0,
    }  # fmt: skip
    marker = {
        "color": points["score"][::-1], "colorscale": SCALE, "cmin": low, "cmax": top, "colorbar": bar,
        "size": 12 if len(points) <= 80 else 8,
        "line": {"color": REFERENCE, "width": [2.2 if arm in equals else 1 for arm in points["arm"][::-1]]},
    }  # fmt: skip
    x, y = places[::-1].T  # the best on top
    plot.add_scatter(
        x=x, y=y, mode="markers", marker=marker, name="static point", hovertext=hover[::-1], hoverinfo="text",
        showlegend=False, customdata=points["arm"][::-1].tolist(),
    )  # fmt: skip


def _add_paths(plot: go.Figure, data: ReportData) -> None:
    recipes = best_runs(data.comparison)
    for recipe, table in data.trajectories.items():
        if recipe in recipes and len(table):
            w = thinned(table, _PATH_POINTS)[[f"w/{task}" for task in data.comparison.tasks]].to_numpy(dtype=float)
            line = {"color": recipe_style(recipe, recipes)[0], "width": 1.5}
            x, y = _places(w).T
            plot.add_scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _add_marked(plot: go.Figure, data: ReportData, marked: dict[str, Vector]) -> None:
    recipes = best_runs(data.comparison)
    for recipe, w in marked.items():
        (x, y), text = _places(w), weights_text(w[None], data.comparison.tasks)[0]
        if recipe:
            color, symbol = recipe_style(recipe, recipes)
            name, size = f"E_t[w], {plain(recipe)} recipe", 14
        else:
            color, symbol, name, size = STATIC, "circle-open", "best static arm", 20
        marker = {"color": color, "symbol": symbol, "size": size, "line": {"width": 3 if not recipe else 1}}
        plot.add_scatter(
            x=[x], y=[y], mode="markers", name=name, marker=marker, hovertext=f"{name}<br>{text}", hoverinfo="text"
        )


def _layout(reach: float) -> dict[str, object]:
    x = {"visible": False, "range": [-1.12 * reach, 1.12 * reach]}
    y = {**x, "range": [-1.05 * reach, 1.2 * reach], "scaleanchor": "x"}
    return blank(height=640, meta={"aspect": 1.25}, xaxis=x, yaxis=y)
