"""Test score of every arm with its 95% interval."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from hpo.core.number_format import bounds, signed
from hpo.report.arm_labels import arm_label
from hpo.report.figures.style import REFERENCE, STATIC, Clipped, blank, clip, groups, plain
from hpo.report.report_data import ReportData
from hpo.report.sentences import rival_arm

TITLE = "Arms on the test split"
MISSING = "No arm has a score on the confirm seeds yet."
WIDE = True
_ROW = 46  # pixels


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    text = (
        "Further left is better. Bars are 95% intervals over seeds; the dashed line is "
        f"{rival_arm(data.comparison)}. The recommended arm is in bold."
    )
    beyond = int(_clipped(_scored(data)).beyond.sum())
    note = f" Arms beyond the range ({beyond}) are triangles at the right edge, with their score beside the name."
    return text + note * bool(beyond)


def figure(data: ReportData) -> go.Figure | None:
    """Draw a forest plot in the order of the table of arms, names above intervals so that it fits a phone."""
    arms = _scored(data)
    if arms.empty:
        return None
    clipped = _clipped(arms)
    arms = arms.assign(place=range(len(arms), 0, -1), shown=clipped.shown, beyond=clipped.beyond)
    plot = go.Figure(layout=_layout(arms))
    rest = arms
    for name, (kinds, color, symbol) in groups(data.comparison.searched).items():
        _add(plot, arms[arms["kind"].isin(kinds)], name, color, symbol)
        rest = rest[~rest["kind"].isin(kinds)]
    _add(plot, rest, "other methods", REFERENCE, "square")
    names = [(_name(row), row["place"]) for _, row in arms.iterrows()]
    same = {"x": 0, "xref": "paper", "xanchor": "left", "yshift": 16, "showarrow": False}
    plot.update_layout(annotations=[{"text": text, "y": place, **same} for text, place in names])
    for value in arms.loc[arms["best_static"], "shown"]:
        plot.add_vline(value, line={"color": STATIC, "dash": "dash", "width": 1.5}, layer="below")
    return plot


def _scored(data: ReportData) -> pd.DataFrame:
    arms = data.comparison.arms
    return arms[arms["score_test"].notna()]


def _clipped(arms: pd.DataFrame) -> Clipped:
    return clip(arms["score_test"], 2.0, keep=arms.loc[arms["best_static"] | arms["recommended"], "score_test"])


def _add(plot: go.Figure, arms: pd.DataFrame, name: str, color: str, symbol: str) -> None:
    if arms.empty:
        return
    error = {
        "array": (arms["high"] - arms["score_test"]).mask(arms["beyond"]).fillna(0),
        "arrayminus": (arms["score_test"] - arms["low"]).mask(arms["beyond"]).fillna(0),
        "thickness": 2,
        "width": 5,
    }
    hover = [
        f"{plain(arm_label(row['arm']))}<br>score {signed(row['score_test'])}<br>"
        f"95% interval {bounds(row['low'], row['high'])}<br>{row['seeds']} seeds"
        for _, row in arms.iterrows()
    ]
    symbols = ["triangle-right" if beyond else symbol for beyond in arms["beyond"]]
    marker = {"color": color, "symbol": symbols, "size": 10}
    plot.add_scatter(
        x=arms["shown"], y=arms["place"], mode="markers", name=name, marker=marker, error_x=error,
        hovertext=hover, hoverinfo="text", customdata=arms["arm"].tolist(),
    )  # fmt: skip


def _name(row: pd.Series) -> str:
    """Return the arm's label, bold if recommended, with its score if that is out of range."""
    label = plain(arm_label(row["arm"]))
    text = f"<b>{label}</b>" if row["recommended"] else label
    return text + (f" · {signed(row['score_test'])}" if row["beyond"] else "")


def _layout(arms: pd.DataFrame) -> dict[str, object]:
    reached = arms.loc[~arms["beyond"]]
    low, high = reached[["low", "shown"]].min().min(), reached[["high", "shown"]].max().max()
    high = max(float(high), float(arms["shown"].max()))
    pad = 0.06 * (high - low) or 1.0
    return blank(
        height=90 + _ROW * len(arms),
        xaxis={"title": {"text": "score on test, %"}, "range": [low - pad, high + pad]},
        yaxis={"visible": False, "range": [0.5, len(arms) + 0.75]},
    )
