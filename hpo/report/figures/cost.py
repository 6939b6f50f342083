"""Cost of each way to find weights, in steps and in measured time."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo.core.number_format import count, duration, ratio
from hpo.report.figures.style import RECIPES, STATIC, blank, plain
from hpo.report.report_data import ReportData

TITLE = "Cost of finding weights"
MISSING = "No trial of the static search or of an alpha sweep has run yet."
WIDE = True
_PANELS = {"steps": ("steps", count), "seconds": ("measured time", duration)}
_ROW = 56  # pixels


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    times = " In parentheses: the cost in multiples of the static search."
    return "Shorter is cheaper." + times * data.comparison.searched


def figure(data: ReportData) -> go.Figure | None:
    """Draw bars in two panels, names above bars so that it fits a phone."""
    cost = data.comparison.cost
    cost = cost[cost["trials"] > 0]
    if len(cost) < 2:  # one bar compares nothing
        return None
    cost = cost.assign(place=range(len(cost), 0, -1))
    plot = make_subplots(rows=1, cols=2, horizontal_spacing=0.06, shared_yaxes=True)
    for column, (unit, (title, write)) in enumerate(_PANELS.items(), 1):
        text = [_text(write(row[unit]), row[f"{unit}_ratio"]) for _, row in cost.iterrows()]
        _add(plot, column, cost, unit, text)
        reach = [0, 2.5 * cost[unit].max() or 1]  # room for the text beside the longest bar
        plot.update_xaxes(
            title_text=title, range=reach, showticklabels=False, showgrid=False, zeroline=True, row=1, col=column
        )
    for _, row in cost.iterrows():
        plot.add_annotation(
            text=plain(row["way"]), x=0, xref="paper", xanchor="left", y=row["place"], yshift=19, showarrow=False
        )
    plot.update_yaxes(visible=False, range=[0.5, len(cost) + 0.75])
    plot.update_layout(blank(height=60 + _ROW * len(cost), showlegend=False))
    return plot


def _text(amount: str, times: float) -> str:
    return amount if times == 1 or math.isnan(times) else f"{amount} ({ratio(times)} \N{MULTIPLICATION SIGN})"


def _add(plot: go.Figure, column: int, cost: pd.DataFrame, unit: str, text: list[str]) -> None:
    colors = [STATIC if way == "static search" else RECIPES[0] for way in cost["way"]]
    plot.add_bar(
        x=cost[unit], y=cost["place"], orientation="h", width=0.32, marker_color=colors, text=text,
        textposition="outside", cliponaxis=False, hovertext=[plain(way) for way in cost["way"]],
        hoverinfo="text", row=1, col=column,
    )  # fmt: skip
