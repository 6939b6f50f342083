"""Checks of a problem's arguments, all with the same grammar: field, what is expected, what was found."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Any

from hpo.core.errors import ProblemError
from hpo.core.text import complaint

LARGEST = 2**63 - 1  # of the integers that torch takes


def shown(value: Any) -> str:
    """Return a value as Python writes it, in one line of limited length."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 120 else f"{text[:117]}..."


def check_count(field: str, value: Any, minimum: int = 1, maximum: int = LARGEST) -> int:
    """Check an integer from ``minimum`` to ``maximum``; ``True`` and ``3.0`` are refused.

    Raises:
        ProblemError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ProblemError(complaint(field, f"an integer >= {minimum}", shown(value)))
    if value > maximum:
        raise ProblemError(complaint(field, f"an integer <= {maximum}", shown(value)))
    return value


def check_positive(field: str, value: Any) -> float:
    """Check a finite number above 0.

    Raises:
        ProblemError: anything else.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= sys.float_info.max:  # an integer may be larger than any float
        raise ProblemError(complaint(field, "a finite number > 0", shown(value)))
    return float(value)


def check_choice(field: str, value: Any, allowed: Collection[str]) -> str:
    """Check that a value is one of the allowed words.

    Raises:
        ProblemError: anything else.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ProblemError(complaint(field, ", ".join(map(repr, allowed)), shown(value)))
    return value


def check_flag(field: str, value: Any) -> bool:
    """Check that a value is ``True`` or ``False``.

    Raises:
        ProblemError: anything else.
    """
    if not isinstance(value, bool):
        raise ProblemError(complaint(field, "True, False", shown(value)))
    return value


def check_batch_size(value: Any, rows: int) -> int:
    """Check a batch size of which at least one batch fits into ``rows`` training rows.

    Raises:
        ProblemError: not an integer from 1 to ``rows``.
    """
    size = check_count("batch_size", value)
    if size > rows:
        raise ProblemError(complaint("batch_size", f"at most the {rows} rows of the training split", size))
    return size
