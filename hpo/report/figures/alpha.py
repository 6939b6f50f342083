"""The alpha sweep: validation score against alpha."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from hpo.compare import best_trial
from hpo.core.number_format import signed
from hpo.report.figures.style import STATIC, blank, clip, plain, recipe_style
from hpo.report.report_data import ReportData, static_points

TITLE = "How much alpha matters"
MISSING = "The alpha sweep has no run with a score yet."
WIDE = False


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    return (
        f"Lower is better. Each marker is one GradNorm run on the search seed; the dashed line is {_line(data)} "
        "on the same seed. Open triangles at the top are runs beyond the range, or runs that did not finish."
    )


def figure(data: ReportData) -> go.Figure | None:
    """Draw score over alpha, with a colour and a marker for each recipe."""
    search = data.comparison.search
    sweep = search[search["kind"] == "gradnorm"].sort_values("alpha", kind="stable")
    if not sweep["score"].notna().any():
        return None
    best = best_trial(static_points(data.comparison))
    clipped = clip(sweep["score"], 2.0, keep=() if best is None else (best["score"],))
    sweep = sweep.assign(shown=clipped.shown, out=clipped.beyond | sweep["score"].isna())
    sweep["shown"] = sweep["shown"].fillna(clipped.top)
    plot = go.Figure(layout=blank(height=420))
    for recipe, runs in sweep.groupby("recipe"):
        _add(plot, str(recipe), runs, recipe_style(str(recipe), set(sweep["recipe"])))
    if best is not None:
        line = {"color": STATIC, "dash": "dash", "width": 1.5}
        plot.add_hline(best["score"], line=line, layer="below")
        plot.add_scatter(x=[None], y=[None], mode="lines", line=line, name=_line(data).removeprefix("the "))
    plot.update_layout(xaxis_title_text="alpha", yaxis_title_text="score on validation, %")
    return plot


def _line(data: ReportData) -> str:
    return "the best static point" if data.comparison.searched else "equal weights"


def _add(plot: go.Figure, recipe: str, runs: pd.DataFrame, style: tuple[str, str]) -> None:
    color, symbol = style
    marker = {
        "color": color,
        "size": 10,
        "symbol": ["triangle-up-open" if out else symbol for out in runs["out"]],
    }
    hover = [
        f"{plain(recipe)} recipe, alpha {row['alpha']:.3g}<br>"
        + (f"score {signed(row['score'])}" if pd.notna(row["score"]) else row["status"])
        for _, row in runs.iterrows()
    ]
    plot.add_scatter(
        x=runs["alpha"], y=runs["shown"], mode="lines+markers", line={"color": color, "width": 1}, marker=marker,
        name=f"{plain(recipe)} recipe", hovertext=hover, hoverinfo="text",
        customdata=runs["arm"].tolist(),
    )  # fmt: skip
