"""Difference of each arm between test and training data."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from hpo.core.number_format import signed
from hpo.report.arm_labels import arm_label
from hpo.report.figures.style import REFERENCE, blank, clip, clip_note, groups, plain
from hpo.report.report_data import ReportData

TITLE = "Overfitting"
MISSING = "No confirm trial has metrics on the training split."
WIDE = False


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    return (
        "Lower is better. The horizontal axis shows by how much an arm is worse on test than on its own training "
        "data. Weights that win by overfitting less are low and left."
        + clip_note(clip(_known(data)["score_test"], 2.0))
    )


def figure(data: ReportData) -> go.Figure | None:
    """Draw test score over the gap, a marker for each arm."""
    arms = _known(data)
    if arms.empty:
        return None
    clipped = clip(arms["score_test"], 2.0)
    arms = arms.assign(shown=clipped.shown, beyond=clipped.beyond)
    plot = go.Figure(layout=blank(height=420))
    rest = pd.Series(True, index=arms.index)
    for name, (kinds, color, symbol) in groups(data.comparison.searched).items():
        _add(plot, arms[arms["kind"].isin(kinds)], name, color, symbol)
        rest &= ~arms["kind"].isin(kinds)
    _add(plot, arms[rest], "other methods", REFERENCE, "square")
    plot.update_xaxes(title_text="gap of train and test, percentage points of score")
    plot.update_yaxes(title_text="score on test, %")
    return plot


def _known(data: ReportData) -> pd.DataFrame:
    arms = data.comparison.arms
    return arms[arms["gap"].notna() & arms["score_test"].notna()]


def _add(plot: go.Figure, arms: pd.DataFrame, name: str, color: str, symbol: str) -> None:
    if arms.empty:
        return
    hover = [
        f"{plain(arm_label(row['arm']))}<br>gap {signed(row['gap'])}<br>score on test {signed(row['score_test'])}"
        for _, row in arms.iterrows()
    ]
    symbols = ["triangle-up" if beyond else symbol for beyond in arms["beyond"]]
    plot.add_scatter(
        x=arms["gap"], y=arms["shown"], mode="markers", name=name, hovertext=hover, hoverinfo="text",
        marker={"color": color, "symbol": symbols, "size": 10}, customdata=arms["arm"].tolist(),
    )  # fmt: skip
