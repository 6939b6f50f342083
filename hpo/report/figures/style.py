"""Shared parts of the figures: colours that colour-blind readers can distinguish, templates, clipping.

The colours (after Okabe and Ito, "Color Universal Design", 2008) have a contrast of 3 or more against both the white
and the dark page, so that only text and lines of the frame change with the scheme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from hpo.compare import weight_columns
from hpo.core.arm import BALANCED, SEARCHED
from hpo.core.number_format import signed
from hpo.report.arm_labels import arm_label

STATIC = "#1380C6"
STATIC_BAND = "rgba(19,128,198,0.18)"
REFERENCE = "#808080"
RECIPES = ("#D55E00", "#AA6FAE", "#009E73")
TASKS = ("#1380C6", "#D55E00", "#009E73", "#BF6FB0", "#A07800", "#808080")
SYMBOLS = ("diamond", "square", "cross")
DASHES = ("solid", "dash", "dot")
SCALE = ["rgb(19,128,198)", "rgb(164,170,176)", "rgb(201,138,0)"]  # of scores, the best first
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def groups(searched: bool) -> dict[str, tuple[tuple[str, ...], str, str]]:
    """Return the groups of arms by name: kinds, colour, marker.

    Args:
        searched: whether the study has a static search; without one, equal weights are alone in their group.
    """
    fixed = "static search" if searched else "equal weights"
    return {"GradNorm": (BALANCED, RECIPES[0], "diamond"), fixed: (SEARCHED, STATIC, "circle")}


def plain(text: str) -> str:
    """Escape text that Plotly would otherwise read as tags."""
    return html.escape(text, quote=False)


def recipe_style(recipe: str, recipes: Iterable[str]) -> tuple[str, str]:
    """Return the colour and the marker of a recipe, the same in every figure."""
    place = sorted(recipes).index(recipe)
    return RECIPES[place % len(RECIPES)], SYMBOLS[place % len(SYMBOLS)]


def task_line(place: int) -> dict[str, str]:
    """Return the colour and the dash of a task's line; dashes distinguish tasks of the same colour."""
    return {"color": TASKS[place % len(TASKS)], "dash": DASHES[place // len(TASKS) % len(DASHES)]}


def blank(height: int, **layout: Any) -> dict[str, Any]:
    """Return the layout that every figure starts from; the page adds the template with the colours."""
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {
        "template": go.layout.Template(),
        "height": height,
        "margin": {"l": 10, "r": 16, "t": 10, "b": 10},
        "legend": legend,
        "hovermode": "closest",
    } | layout


def template(ink: str, muted: str, grid: str, surface: str) -> dict[str, Any]:
    """Return a Plotly template of four colours: text, axis text, grid lines, and background of text."""
    axis = {
        "gridcolor": grid,
        "zerolinecolor": grid,
        "zerolinewidth": 1,
        "linecolor": grid,
        "tickfont": {"color": muted, "size": 12},
        "title": {"font": {"color": muted, "size": 13}, "standoff": 8},
        "automargin": True,
    }
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT, "size": 13, "color": ink},
            "hoverlabel": {"bgcolor": surface, "bordercolor": grid, "font": {"color": ink, "family": FONT}},
            "xaxis": axis,
            "yaxis": axis,
            "annotationdefaults": {"font": {"color": ink, "size": 12}, "bgcolor": surface, "borderpad": 0},
            "shapedefaults": {"line": {"color": muted}},
        }
    }


TEMPLATES = {
    "light": template(ink="#1a2027", muted="#55606b", grid="#dfe4e9", surface="#ffffff"),
    "dark": template(ink="#e8ecf0", muted="#a3adb8", grid="#343c45", surface="#1b2026"),
}


class Clipped(NamedTuple):
    """Values limited to ``top``; ``beyond`` marks those that were larger."""

    shown: NDArray[np.float64]
    beyond: NDArray[np.bool_]
    top: float


def clip(values: ArrayLike, reach: float, keep: Iterable[float] = ()) -> Clipped:
    """Limit high outliers, so that one bad arm does not compress the range of all others.

    Args:
        values: scores; the low ones are of interest.
        reach: distance of ``top`` to the third quartile, in multiples of that from the minimum to the quartile.
        keep: values that are never limited.
    """
    x = np.asarray(values, dtype=np.float64)
    known = x[np.isfinite(x)]
    if not len(known):
        return Clipped(x, np.zeros(len(x), dtype=bool), float("nan"))
    low, quartile = np.quantile(known, [0.0, 0.75])
    top = min(float(known.max()), max([float(quartile + reach * (quartile - low)), *keep]))
    return Clipped(np.minimum(x, top), x > top, top)


def clip_note(clipped: Clipped) -> str:
    """Return the sentence of a caption on values out of range."""
    count = int(clipped.beyond.sum())
    return f" Points beyond the range ({count}) are triangles at its edge." if count else ""


def weights_text(w: NDArray[np.float64], tasks: Iterable[str]) -> list[str]:
    """Return for each row of weights its hover lines."""
    names = [plain(task) for task in tasks]
    return ["<br>".join(f"w {n} {v:.3g}" for n, v in zip(names, row, strict=True)) for row in w]


def point_texts(points: pd.DataFrame, tasks: tuple[str, ...]) -> list[str]:
    """Return for each static point its hover lines: arm, score, weights, and the identity of its MLflow run."""
    texts = weights_text(weight_columns(points, tasks, "geometric"), tasks)
    return [
        f"{plain(arm_label(row['arm']))}<br>score {signed(row['score'])}<br>{text}<br>trial {row['identity']}"
        for (_, row), text in zip(points.iterrows(), texts, strict=True)
    ]


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """Return ticks of a logarithmic axis between two powers of ten: decades, or 1, 2, 5 if there are few decades."""
    if high - low >= 2:
        return {"dtick": 1}
    powers = range(math.floor(low), math.ceil(high) + 1)
    return {"tickvals": [digit * 10.0**power for power in powers for digit in (1, 2, 5)]}


def thinned(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Return at most this number of rows of a table, evenly spaced, including the last."""
    if len(table) <= rows:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, rows).round().astype(int))]


def add_run_title(plot: go.Figure, row: int, recipe: str, run: pd.Series | None) -> None:
    """Add the recipe and alpha of a run above its row of panels."""
    alpha = "" if run is None else f", alpha {run['alpha']:.3g}"
    axis = plot.get_subplot(row, 1).yaxis
    plot.add_annotation(
        text=f"<b>{plain(recipe)} recipe{alpha}</b>", x=0, xref="paper", xanchor="left", y=axis.domain[1],
        yref="paper", yanchor="bottom", yshift=4, showarrow=False,
    )  # fmt: skip
