"""The one grammar of messages about bad input, and the checks that several files share."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LARGEST_RATIO = 1e300
"""Two weights may differ by this factor: their ratio and its inverse are then normal float64 numbers."""


def fail(parameter: str, rule: str, found: object) -> NoReturn:
    """Raise the `ValueError` of our one grammar for bad input."""
    raise ValueError(f"{parameter}: expected {rule}, got {found!r}")


def check_integer(parameter: str, found: int, low: int) -> None:
    """Raise a `ValueError` unless ``found`` is an integer >= ``low``."""
    if not isinstance(found, Integral) or isinstance(found, bool) or found < low:
        fail(parameter, f"an integer >= {low}", found)


def check_number(parameter: str, found: float) -> None:
    """Raise a `ValueError` unless ``found`` is a finite number."""
    if not isinstance(found, Real) or isinstance(found, bool) or not math.isfinite(found):
        fail(parameter, "a finite number", found)


def check_sizes(tasks: int, points: int, seed: int) -> None:
    """Raise a `ValueError` unless a design can draw ``points`` points of ``tasks`` weights."""
    check_integer("tasks", tasks, 1)
    check_integer("points", points, 1)
    check_integer("seed", seed, 0)
    if tasks == 1 and points > 1:
        fail("points", "1 for one task, whose only weight is 1", points)


def check_ratio(ratio: float) -> None:
    """Raise a `ValueError` unless ``ratio`` can be the largest ratio of two weights of a design."""
    check_number("ratio", ratio)
    if not 1.0 < ratio <= LARGEST_RATIO:
        fail("ratio", f"a number > 1 and <= {LARGEST_RATIO:g}", ratio)


def checked_array(parameter: str, found: object) -> Array:
    """Return ``found`` as a finite float64 array (..., n), n >= 1; a `ValueError` names the first bad entry."""
    try:
        array = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError):
        fail(parameter, "an array of numbers", found)
    if array.ndim == 0:
        fail(parameter, "an array of numbers", found)
    _check_entries(parameter, array, np.isfinite(array), "a finite number")
    return array


def checked_weights(parameter: str, found: object) -> Array:
    """Return ``found`` as weights of shape (..., T), all > 0; a `ValueError` names the first bad entry."""
    weights = checked_array(parameter, found)
    if weights.shape[-1] == 0:
        fail(parameter, "at least one weight", weights.tolist())
    _check_entries(parameter, weights, weights > 0.0, "a number > 0")
    check_spread(parameter, weights, np.log(weights))
    return weights


def check_spread(parameter: str, found: Array, logarithms: Array) -> None:
    """Raise a `ValueError` if two weights of a row of ``found`` are too far apart, by their logarithms (..., T)."""
    spread = np.asarray(np.ptp(logarithms, axis=-1))
    if spread.max(initial=0.0) > math.log(LARGEST_RATIO) + 1e-9:
        worst = found[np.unravel_index(spread.argmax(), spread.shape)]
        rule = f"weights of which no two are more than a factor of {LARGEST_RATIO:g} apart"
        fail(parameter, rule, worst.tolist())


def _check_entries(parameter: str, array: Array, fine: NDArray[np.bool_], rule: str) -> None:
    if not fine.all():
        index = np.argwhere(~fine)[0].tolist()
        entry = f"{parameter}[{', '.join(map(str, index))}]"
        fail(entry, rule, array[tuple(index)].item())
