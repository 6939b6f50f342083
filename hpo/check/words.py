"""Lists of tasks and numbers as text, short enough for a table cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hpo.core.number_format import number
from hpo.core.text import listed

FAR = 10.0  # a ratio worth a word


def every(names: Iterable[str]) -> str:
    """Return all names as text."""
    return ", ".join(names)


def values(numbers: Mapping[str, float]) -> str:
    """Return the numbers of the first few tasks as text.

    >>> values({"income": 0.70123, "age": 1614.2})
    'income 0.701, age 1,614'
    """
    return listed(f"{task} {number(value)}" for task, value in numbers.items())


def apart(numbers: Mapping[str, float]) -> str:
    """Return the ratio of the largest to the smallest value as text, if it is large and all values are above 0.

    >>> apart({"income": 0.7, "age": 1600.0}), apart({"income": 0.7, "age": 1.6})
    (' (2,286 times apart)', '')
    """
    least, most = min(numbers.values()), max(numbers.values())
    return f" ({number(most / least)} times apart)" if least > 0 and most / least >= FAR else ""
