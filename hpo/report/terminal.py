"""The table of arms for the terminal."""

from __future__ import annotations

import math

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from hpo.compare import Comparison
from hpo.core.number_format import NOTHING, signed
from hpo.report.arm_labels import arm_label

MARKS = {"recommended": ("→", "bold green"), "best_static": ("*", "bold"), "misses": ("!", "yellow")}
LEGEND = "Score: percent against single-task networks, lower is better; ± 95%, paired over seeds.\n" + (
    "→ recommended; * {rival}, with which regret and verdict compare."
)


def arms(comparison: Comparison) -> Table:
    """Return the arms of the confirm phase, best validation score first, narrow enough for 80 columns."""
    rival = "best static arm" if comparison.searched else arm_label(comparison.verdict.static)
    limited = "\n! misses a limit." if comparison.scoring.limits else ""
    table = Table(
        title=LEGEND.format(rival=rival) + limited, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=0
    )
    table.add_column("", min_width=2 + bool(limited), no_wrap=True)
    table.add_column("arm", no_wrap=True)
    for column in ("val", "test", "regret"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for _, row in comparison.arms[comparison.arms["kind"] != "single_task"].iterrows():
        style = next((style for mark, (_, style) in MARKS.items() if row[mark]), None)
        table.add_row(*_cells(row), style=style)
    return table


def _cells(row: pd.Series) -> list[str]:
    return [
        "".join(sign for mark, (sign, _) in MARKS.items() if row[mark]),
        row["arm"].replace("@", "\n  @"),  # the arguments of a tuned study on a line of their own
        _short(row["score_val"]),
        _short(row["score_test"]),
        _plus_minus(row["regret"], row["regret_high"]),
        row["verdict"],
    ]


def _plus_minus(mean: float, high: float) -> str:
    """Return a mean with half its interval, "-0.42 ± 0.38"; Student's interval is symmetric."""
    if not math.isfinite(mean):
        return NOTHING
    return f"{_short(mean)} ± {_short(high - mean).lstrip('+')}" if math.isfinite(high) else _short(mean)


def _short(value: float) -> str:
    """Return a signed number in at most five characters up to 1,000: "-0.42", "+49.6", "+102"."""
    return f"{value:+.1f}" if 10 <= abs(value) < 100 else signed(value)
