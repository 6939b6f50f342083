"""Numbers and lists in words, short enough for a cell of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def listed(names: Iterable[str], most: int = 4) -> str:
    """The first few names, and how many more there are.

    >>> listed(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def every(names: Iterable[str]) -> str:
    """All of the names."""
    return ", ".join(names)


def values(numbers: Mapping[str, float]) -> str:
    """A number for each of the first few tasks.

    >>> values({"income": 0.70123, "age": 1614.2})
    'income 0.701, age 1,614'
    """
    return listed(f"{task} {number(value)}" for task, value in numbers.items())


def apart(numbers: Mapping[str, float]) -> str:
    """How many times the largest is the smallest, where that is much; all are above 0.

    >>> apart({"income": 0.7, "age": 1600.0}), apart({"income": 0.7, "age": 1.6})
    (' (2,286 times apart)', '')
    """
    ratio = max(numbers.values()) / min(numbers.values())
    return f" ({number(ratio)} times apart)" if ratio >= 10 else ""


def number(value: float) -> str:
    """Three digits, or a whole number."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


_UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 0.001))


def duration(seconds: float) -> str:
    """Two digits, which is enough for what is measured once.

    >>> duration(0.00056), duration(0.34), duration(345.0)
    ('0.56 ms', '340 ms', '5.8 min')
    """
    if seconds < 0.0001:
        return "less than 0.1 ms"
    unit, length = next(pair for pair in _UNITS if seconds >= pair[1] or pair[0] == "ms")
    return f"{float(f'{seconds / length:.2g}'):g} {unit}"


def size(count: float) -> str:
    """Bytes, in three digits.

    >>> size(302_400)
    '302 kB'
    """
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
