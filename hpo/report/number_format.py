"""Numbers as people read them; ``NOTHING`` where there is none."""

from __future__ import annotations

import math

NOTHING = "—"


def signed(value: float) -> str:
    """A score or a regret: "+1.23", "-0.40", "+1,204"."""
    if not math.isfinite(value):
        return NOTHING
    text = f"{value:+.2f}" if abs(value) < 100 else f"{value:+,.0f}"
    return text if text.strip("+-0.") else "0.00"


def bounds(low: float, high: float) -> str:
    """An interval: "-0.80 to -0.04"."""
    return f"{signed(low)} to {signed(high)}" if math.isfinite(low) and math.isfinite(high) else NOTHING


def signed_with_bounds(mean: float, low: float, high: float) -> str:
    """A mean and its interval: "-0.42 (-0.80 to -0.04)"."""
    interval = bounds(low, high)
    return signed(mean) if interval == NOTHING else f"{signed(mean)} ({interval})"


def weight(value: float) -> str:
    """A weight, three digits: "0.00512"."""
    return f"{value:.3g}" if math.isfinite(value) else NOTHING


def metric(value: float) -> str:
    """A metric, four digits: "0.9423", "12.06"."""
    return f"{value:.4g}" if math.isfinite(value) else NOTHING


def count(value: float) -> str:
    """A whole number: "12,300"."""
    return f"{value:,.0f}" if math.isfinite(value) else NOTHING


def ratio(value: float) -> str:
    """How many times: "0.31", "2.4", "13"."""
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share: "88%"."""
    return f"{value:.0%}" if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """ "83 s", "12 min", "3.4 h"."""
    if not math.isfinite(seconds):
        return NOTHING
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds)} s"


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"
