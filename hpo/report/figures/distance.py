"""Score of the static points against their distance to E_t[w]: the GradNorm paper's Figure 4, and in log-ratios."""

from __future__ import annotations

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo.compare import distances_to, weight_columns, weights_of
from hpo.report.figures.style import Clipped, blank, clip, clip_note, plain, point_texts, recipe_style
from hpo.report.report_data import ReportData, best_runs, drawn_note, drawn_points

TITLE = "Are static points near E_t[w] the good ones?"
MISSING = "It needs static points with a score and a GradNorm run with a score."
WIDE = False
_PANELS = ("Aitchison distance to E_t[w]", "L2 distance to E_t[w]")  # the order of `Distance`


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    return (
        "Each marker is a static point. If the score rises from left to right, GradNorm's weights are near the best "
        "ones. E_t[w] is the arithmetic average of each recipe's best run."
        + clip_note(_clipped(data))
        + drawn_note(data.comparison)
    )


def figure(data: ReportData) -> go.Figure | None:
    """Draw a panel for each distance, with a colour and a marker for each recipe."""
    runs, points = best_runs(data.comparison), drawn_points(data.comparison)
    if not runs or points.empty:
        return None
    texts = point_texts(points, data.comparison.tasks)
    plot = make_subplots(rows=2, cols=1, vertical_spacing=0.2)
    for recipe, run in runs.items():
        target = weights_of(run, data.comparison.tasks, "arithmetic")
        distances = distances_to(target, weight_columns(points, data.comparison.tasks, "geometric"))
        for row, (x, axis) in enumerate(zip(distances, _PANELS, strict=False), 1):
            markers = _markers(recipe, x.round(5).tolist(), _clipped(data), recipe_style(recipe, runs))
            label = f"({plain(recipe)} recipe)"
            hover = [f"{text}<br>distance {far:.3g} {label}" for text, far in zip(texts, markers.x, strict=True)]
            markers.update(hovertext=hover, customdata=points["arm"].tolist(), showlegend=row == 1)
            plot.add_trace(markers, row=row, col=1)
            plot.update_xaxes(title_text=axis, rangemode="tozero", row=row, col=1)
    plot.update_yaxes(title_text="score on validation, %")
    plot.update_layout(blank(height=560))
    return plot


def _clipped(data: ReportData) -> Clipped:
    return clip(drawn_points(data.comparison)["score"], 0.5)


def _markers(recipe: str, x: list[float], clipped: Clipped, style: tuple[str, str]) -> go.Scatter:
    """Return the static points by their distance to a recipe's E_t[w]."""
    color, symbol = style
    symbols = ["triangle-up" if beyond else symbol for beyond in clipped.beyond]
    return go.Scatter(
        x=x, y=clipped.shown, mode="markers", name=f"{plain(recipe)} recipe", legendgroup=recipe, hoverinfo="text",
        marker={"color": color, "symbol": symbols, "size": 8, "opacity": 0.85},
    )  # fmt: skip
