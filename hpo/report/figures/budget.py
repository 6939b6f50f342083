"""Number of static points that match GradNorm: the expected best of k, with its band."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from hpo.core.number_format import signed
from hpo.report.figures.style import STATIC, STATIC_BAND, blank, plain, recipe_style
from hpo.report.report_data import ReportData

TITLE = "Was the grid search worth it?"
MISSING = "No static point has a score yet."
WIDE = False


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    text = "Lower is better. The curve is the expected score of the best of k static points, with its 95% band"
    if data.comparison.budget.table.empty:
        return text + "."
    return f"{text}. Where a recipe's line meets it, k static points match the best run of the recipe's alpha sweep."


def figure(data: ReportData) -> go.Figure | None:
    """Draw the curve in its band, a level for each recipe, and a marker where they meet."""
    found = data.comparison.budget
    curve, table, points = found.curve, found.table, found.points
    if curve.empty:
        return None
    plot = go.Figure(layout=blank(height=420))
    _add_curve(plot, curve)
    recipes = set(table["recipe"])
    for _, row in table.iterrows():
        color, symbol = recipe_style(str(row["recipe"]), recipes)
        name = f"{plain(row['recipe'])} recipe"
        plot.add_scatter(
            x=[1, points], y=[row["score"]] * 2, mode="lines", line={"color": color, "width": 2, "dash": "dot"},
            name=name, legendgroup=name, hoverinfo="skip",
        )  # fmt: skip
        beyond = "no k matches it" if row["beyond"] else f"{row['k']} static points match it"
        plot.add_scatter(
            x=[row["k"]], y=[row["score"]], mode="markers", legendgroup=name, showlegend=False,
            marker={"color": color, "symbol": "triangle-right" if row["beyond"] else symbol, "size": 12},
            hovertext=f"{name}: score {signed(row['score'])}<br>{beyond} (95%: {row['k_low']} to {row['k_high']})",
            hoverinfo="text",
        )  # fmt: skip
    top = max([float(curve["expected"].iloc[0]), *table["score"]])
    low = min([float(curve["low"].min()), *table["score"]])
    top = max(top, low + 0.1)  # scores without any spread
    ticks = [k for power in (1, 10, 100, 1000, 10000) for k in (power, 2 * power, 5 * power) if k <= points]
    plot.update_xaxes(title_text="static points tried, k", type="log", tickvals=ticks)
    plot.update_yaxes(title_text="score on validation, %", range=[low - 0.06 * (top - low), top + 0.06 * (top - low)])
    return plot


def _add_curve(plot: go.Figure, curve: pd.DataFrame) -> None:
    line = {"color": STATIC, "width": 0}
    for end, fill in (("high", None), ("low", "tonexty")):
        plot.add_scatter(
            x=curve["k"], y=curve[end], mode="lines", line=line, fill=fill, fillcolor=STATIC_BAND, hoverinfo="skip",
            name="95% band", showlegend=end == "low",
        )  # fmt: skip
    plot.add_scatter(
        x=curve["k"], y=curve["expected"], mode="lines", line={"color": STATIC, "width": 2.5},
        name="expected best of k", hovertemplate="best of %{x} static points: %{y:+.2f}<extra></extra>",
    )  # fmt: skip
