"""Validation score over the values of each tuned argument."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from hpo.compare import Comparison
from hpo.core.arm import Arm
from hpo.core.number_format import signed
from hpo.report.arm_labels import arm_label
from hpo.report.figures.style import DASHES, TASKS, blank, clip, clip_note, plain
from hpo.report.report_data import ReportData

TITLE = "Score over the problem's arguments"
MISSING = "No arm has been trained with several sets of arguments yet."
WIDE = True
MOST = 6  # arms drawn, so that their lines can be told apart


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    left = data.comparison.tuning.scores["arm"].nunique() - len(_arms(data.comparison))
    others = f" The table has {left} more arms." if left > 0 else ""
    seeds = data.comparison.tuning.scores["seeds"].max()
    each = (
        f"the mean of up to {seeds} seeds, with their range" if seeds > 1 else "one training run on the search seed"
    )
    return (
        f"Lower is better: score on validation. Each marker is {each}; the best of an arm is larger. "
        "Lines that cross mean that the order of the arms depends on the argument."
        + others
        + clip_note(clip(_shown(data.comparison)["score"], 2.0))
    )


def figure(data: ReportData) -> go.Figure | None:
    """Draw one panel per argument, one line per arm."""
    found = data.comparison
    table = _shown(found)
    if table["score"].notna().sum() == 0:
        return None
    names = list(next(iter(found.tuning.sets.values())))
    plot = make_subplots(rows=len(names), cols=1, vertical_spacing=0.16 / len(names))
    plot.update_layout(blank(height=180 + 280 * len(names)))
    clipped = clip(table["score"], 2.0)
    table = table.assign(shown=clipped.shown, beyond=clipped.beyond)
    above = np.minimum(table["high"], table["shown"].max()) - table["shown"]
    table = table.assign(above=above.clip(lower=0), below=(table["shown"] - table["low"]).clip(lower=0))
    for row, name in enumerate(names, 1):
        values = [one[name] for one in found.tuning.sets.values()]
        _style_axis(plot, row, name, values)
        for place, arm in enumerate(_arms(found)):
            own = table[table["arm"] == arm]
            own = own.assign(value=[found.tuning.sets[label][name] for label in own["arguments"]])
            own = own if _is_text(values) else own.sort_values("value")
            _add(plot, row, own, place, lines=len(names) == 1)
    return plot


def _arms(found: Comparison) -> list[str]:
    """The arms to draw: those that the answers speak of, then the best ones."""
    known = list(found.tuning.scores["arm"].unique())
    named = [found.recommended, found.winner.arm, found.verdict.arm, found.verdict.static, found.baseline, "equal"]
    first = [Arm.parse(arm).base.key for arm in named if arm]
    lowest = found.tuning.scores.groupby("arm")["score"].min().sort_values(kind="stable").index
    return [arm for arm in dict.fromkeys([*first, *lowest]) if arm in known][:MOST]


def _shown(found: Comparison) -> pd.DataFrame:
    return found.tuning.scores[found.tuning.scores["arm"].isin(_arms(found))]


def _is_text(values: Sequence[Any]) -> bool:
    return any(isinstance(value, str | bool) for value in values)


def _style_axis(plot: go.Figure, row: int, name: str, values: Sequence[Any]) -> None:
    kind = "category" if _is_text(values) else "linear"
    if kind == "linear" and min(values) > 0 and max(values) >= 10 * min(values):
        kind = "log"
    plot.update_xaxes(type=kind, title_text=plain(name), row=row, col=1)
    plot.update_yaxes(title_text="score on validation, %", row=row, col=1)


def _add(plot: go.Figure, row: int, own: pd.DataFrame, place: int, lines: bool) -> None:
    color = TASKS[place % len(TASKS)]
    arm = str(own["arm"].iloc[0])
    name = plain(arm_label(arm))
    hover = [
        f"{name}<br>{plain(str(one['arguments']) or 'own arguments')}<br>score {signed(one['score'])}"
        for _, one in own.iterrows()
    ]
    sizes = [13 if best else 8 for best in own["best"]]
    symbols = ["triangle-up" if beyond else "circle" for beyond in own["beyond"]]
    plot.add_scatter(
        x=own["value"].tolist(), y=own["shown"].tolist(), mode="lines+markers" if lines else "markers",
        name=name, legendgroup=arm, showlegend=row == 1, hovertext=hover, hoverinfo="text",
        marker={"color": color, "size": sizes, "symbol": symbols},
        error_y={"array": own["above"].tolist(), "arrayminus": own["below"].tolist(), "thickness": 1, "width": 3},
        line={"color": color, "dash": DASHES[place % len(DASHES)], "width": 1.5}, row=row, col=1,
    )  # fmt: skip
