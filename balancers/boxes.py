"""Boxes: the elements of a tensor at which a gradient may be other than 0.

A *box* has an entry for each dimension: the indices that count, as bits of an integer, or ``None`` for all of them.
The box of a whole tensor is `ALL`. A box may be too large, never too small.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from torch import Tensor

Box = tuple[int | None, ...] | None
ALL: Box = None
NOTHING: Box = (0,)  # of whatever rank
Shares = dict[int, Box]  # for each task that sends gradient to a tensor, where


def apart(boxes: Sequence[Box]) -> bool:
    """Return whether no two boxes of a tensor have an element in common."""
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            if one is None or other is None:
                return False
            if all(a is None or b is None or a & b for a, b in zip(one, other, strict=True)):
                return False
    return True


def around(one: Box, other: Box) -> Box:
    """Return the smallest box around two."""
    if one is None or other is None or one == other:
        return one if one == other else ALL
    whole = [None if a is None or b is None else a | b for a, b in zip(one, other, strict=True)]
    return None if all(bits is None for bits in whole) else tuple(whole)


def confined(gradient: Tensor, box: Box) -> Tensor:
    """Return a copy of a gradient that is 0 outside of a box."""
    if box is None:
        return gradient
    kept = gradient.new_zeros(gradient.shape)
    runs = [[slice(None)] if bits is None else _runs(bits) for bits in box]
    for place in product(*runs):
        kept[place] = gradient[place]
    return kept


@lru_cache(4096)
def _runs(bits: int) -> list[slice]:
    """The indices as slices, each as long as possible."""
    found, at = [], 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        length = (~bits & (bits + 1)).bit_length() - 1
        found.append(slice(at + skip, at + skip + length))
        at, bits = at + skip + length, bits >> length
    return found
