"""Numbers formatted for reports; ``NOTHING`` where a value is missing."""

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
    """A ratio: "0.31", "2.4", "13"."""
    if not math.isfinite(value):
        return NOTHING
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def percent(value: float) -> str:
    """A share: "88%"."""
    return f"{value:.0%}" if math.isfinite(value) else NOTHING


def duration(seconds: float) -> str:
    """A time, two digits or a whole number.

    >>> duration(0.00056), duration(0.34), duration(83), duration(345), duration(12240)
    ('0.56 ms', '340 ms', '83 s', '5.8 min', '3.4 h')
    """
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 1:
        return "less than 0.1 ms" if seconds < 0.0001 else f"{_digits(1000 * seconds)} ms"
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size)} {unit}"
    return f"{_digits(seconds)} s"


def memory(count: float) -> str:
    """Bytes, in three digits.

    >>> memory(302_400)
    '302 kB'
    """
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def number(value: float) -> str:
    """A number of any magnitude, three digits or a whole number: "0.701", "1,614", "nan"."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.2g}"
