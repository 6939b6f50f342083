"""Digests of batches and examples, to find equal batches and examples that are in two splits."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIRST = 8  # batches whose content represents the order of an epoch
MOST_EXAMPLES = 20_000  # limit per split
MOST_BYTES = 2**30
MOST_SECONDS = 5.0
_DEPTH = 6  # of containers in a batch


@dataclass
class Pass:
    """The result of one pass over a split, up to the first of its limits.

    Attributes:
        first: digests of the first batches, in order.
        rows: digests of the examples.
        examples: number of examples read.
        batches: number of batches read.
        size: bytes of their tensors; 0 if there are none to compare.
        complete: whether the whole split was read.
    """

    first: list[int] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)
    examples: int = 0
    batches: int = 0
    size: int = 0
    complete: bool = True


def go_through(batches: Iterable[Any]) -> Pass:
    """Read the batches of a split up to the limits."""
    seen, end = Pass(), time.monotonic() + MOST_SECONDS
    for batch in batches:
        seen.batches += 1
        if len(seen.first) < FIRST:
            seen.first.append(digest(batch))
        rows = row_digests(batch)
        seen.rows.update(rows)
        seen.examples += len(rows)
        seen.size += sum(tensor.nbytes for tensor in tensors_in(batch))
        if seen.examples >= MOST_EXAMPLES or seen.size >= MOST_BYTES or time.monotonic() > end:
            seen.complete = False  # do not check for more: the next may take as long
            break
    return seen


def first_digests(batches: Iterable[Any]) -> list[int]:
    """Return digests of the first batches, in order."""
    return [digest(batch) for batch in islice(batches, FIRST)]


def digest(batch: Any) -> int:
    """Return a number that is equal for batches with equal tensors, within this process.

    >>> digest({"x": torch.zeros(2)}) == digest((torch.zeros(2), "anything"))
    True
    """
    return hash(tuple(_raw(tensor).numpy().tobytes() for tensor in tensors_in(batch)))


def row_digests(batch: Any) -> list[int]:
    """Return a number per example: per row of all tensors with as many rows as the first.

    >>> first, second, third = row_digests((torch.tensor([[1, 2], [3, 4], [1, 2]]), torch.tensor([5, 5, 5])))
    >>> first == third, first == second
    (True, False)
    """
    tensors = [tensor for tensor in tensors_in(batch) if tensor.dim()]
    if not tensors or not len(tensors[0]):
        return []
    count = len(tensors[0])
    columns = [_raw(tensor).reshape(count, tensor.nbytes // count) for tensor in tensors if len(tensor) == count]
    rows = torch.cat(columns, dim=1).numpy()
    return [hash(row.tobytes()) for row in rows]


def tensors_in(batch: Any, depth: int = _DEPTH) -> Iterator[Tensor]:
    """The tensors and arrays of numbers inside tuples, lists, mappings and plain objects."""
    if isinstance(batch, Tensor):
        yield batch.detach()
    elif isinstance(batch, np.ndarray):
        if batch.dtype.kind in "biuf":
            yield torch.from_numpy(batch.astype(batch.dtype.newbyteorder("=")))
    elif depth:
        if isinstance(batch, Mapping):
            parts: Iterable[Any] = batch.values()
        else:
            parts = batch if isinstance(batch, tuple | list) else getattr(batch, "__dict__", {}).values()
        for part in parts:
            yield from tensors_in(part, depth - 1)


def _raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, whatever its device, layout and type."""
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    return dense.cpu().contiguous().reshape(-1).view(torch.uint8)
