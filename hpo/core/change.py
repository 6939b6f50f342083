"""Measures of the change of a task's metric against its single-task network."""

from __future__ import annotations

import math
import sys
from typing import Any, Literal

Change = Literal["relative", "absolute"] | float
ALLOWED = "'relative', 'absolute' or a finite number > 0"


def is_change(value: Any) -> bool:
    """Return whether a value says how a change is measured.

    >>> [is_change(value) for value in ("absolute", 0.5, 0, True, "percent")]
    [True, True, False, False, False]
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0 < value <= sys.float_info.max
    return value in ("relative", "absolute") if isinstance(value, str) else False


def scale_of(change: Change, reference: float) -> float:
    """Return the difference of the metric that counts as 100%; NaN if the reference gives none.

    Args:
        change: ``"relative"`` is |reference|, ``"absolute"`` is 1, a number is itself.
        reference: the metric of the single-task network.
    """
    if not math.isfinite(reference):
        return math.nan
    if change == "relative":
        return abs(reference) if reference else math.nan
    return 1.0 if change == "absolute" else float(change)
