"""Checks of a problem's arguments, all with the same grammar: field, what was found, what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from hpo.problem import ProblemError


def check_count(field: str, value: Any, minimum: int = 1) -> int:
    """An integer of at least ``minimum``; ``True`` and ``3.0`` are none.

    Raises:
        ProblemError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ProblemError(f"{field}: found {value!r}, allowed is an integer >= {minimum}")
    return value


def check_positive(field: str, value: Any) -> float:
    """A finite number above 0.

    Raises:
        ProblemError: anything else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise ProblemError(f"{field}: found {value!r}, allowed is a finite number > 0")
    return float(value)


def check_choice(field: str, value: Any, allowed: Collection[str]) -> str:
    """One of the allowed words.

    Raises:
        ProblemError: anything else.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ProblemError(f"{field}: found {value!r}, allowed are {', '.join(map(repr, allowed))}")
    return value


def check_flag(field: str, value: Any) -> bool:
    """``True`` or ``False``.

    Raises:
        ProblemError: anything else.
    """
    if not isinstance(value, bool):
        raise ProblemError(f"{field}: found {value!r}, allowed are True, False")
    return value


def check_batch_size(value: Any, rows: int) -> int:
    """A batch size that fills at least one batch from ``rows`` training rows.

    Raises:
        ProblemError: not an integer from 1 to ``rows``.
    """
    size = check_count("batch_size", value)
    if size > rows:
        raise ProblemError(f"batch_size: found {size}, allowed are at most the {rows} rows of the training split")
    return size
