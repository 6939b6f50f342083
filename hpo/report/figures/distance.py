"""Score of the static points against their distance to E_t[w]: the GradNorm paper's Figure 4, and in log-ratios."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from hpo.compare import distance as distance_between
from hpo.compare import weights_of
from hpo.report.data import ReportData, best_runs, static_points, weight_columns
from hpo.report.figures.style import Clipped, blank, clip, clip_note, plain, recipe_style
from hpo.report.labels import arm_label
from hpo.report.numbers import signed

TITLE = "Are static points near E_t[w] the good ones?"
MISSING = "It takes scored static points and a GradNorm run with a score."
WIDE = False
_PANELS = {"aitchison": "Aitchison distance to E_t[w]", "l2": "L2 distance to E_t[w]"}


def caption(data: ReportData) -> str:
    """How to read it."""
    return (
        "Each marker is a static point, and GradNorm is right where the score rises from left to right; E_t[w] is "
        "the arithmetic average of each recipe's best run." + clip_note(_clipped(data))
    )


def figure(data: ReportData) -> go.Figure | None:
    """Two panels, one a distance; a colour and a marker for each recipe."""
    runs, points = best_runs(data.comparison), static_points(data.comparison)
    if not runs or points.empty:
        return None
    clipped = _clipped(data)
    plot = make_subplots(rows=2, cols=1, vertical_spacing=0.2)
    for recipe, run in runs.items():
        target = weights_of(run, data.comparison.tasks, "arithmetic")
        for row, (kind, axis) in enumerate(_PANELS.items(), 1):
            x = _distances(points, target, data, kind)
            _add(plot, row, recipe, x, points, clipped, recipe_style(recipe, runs))
            plot.update_xaxes(title_text=axis, rangemode="tozero", row=row, col=1)
    plot.update_yaxes(title_text="score on validation, %")
    plot.update_layout(blank(height=560))
    return plot


def _clipped(data: ReportData) -> Clipped:
    return clip(static_points(data.comparison)["score"], 0.5)


def _distances(points: pd.DataFrame, target: NDArray[np.float64], data: ReportData, kind: str) -> list[float]:
    every = weight_columns(points, data.comparison.tasks, "geometric")
    return [float(distance_between(w, target)._asdict()[kind]) for w in every]


def _add(
    plot: go.Figure,
    row: int,
    recipe: str,
    x: list[float],
    points: pd.DataFrame,
    clipped: Clipped,
    style: tuple[str, str],
) -> None:
    color, symbol = style
    symbols = ["triangle-up" if beyond else symbol for beyond in clipped.beyond]
    hover = [
        f"{plain(arm_label(arm))}<br>score {signed(score)}<br>distance {value:.3g} ({plain(recipe)} recipe)"
        for arm, score, value in zip(points["arm"], points["score"], x, strict=True)
    ]
    plot.add_scatter(
        x=x, y=clipped.shown, mode="markers", name=f"{plain(recipe)} recipe", legendgroup=recipe,
        showlegend=row == 1, hovertext=hover, hoverinfo="text", row=row, col=1,
        marker={"color": color, "symbol": symbols, "size": 8, "opacity": 0.85},
    )  # fmt: skip
