"""Sums and means over the ranks of a process group, so that all ranks hold the same numbers."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def several_ranks() -> bool:
    """Return whether there is a process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sum each tensor over the ranks of a running process group, in single precision at least."""
    if not several_ranks():
        return tensors
    totals = []
    for tensor in tensors:
        total = tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
        dist.all_reduce(total)
        totals.append(total)
    return tuple(totals)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average losses, shape (..., T), over the ranks that have the task; NaN or 0 is absent, NaN if none has it.

    In a single process the losses are returned unchanged.
    """
    if not several_ranks():
        return values
    present = values.abs() > 0
    total, count = sum_over_ranks(torch.where(present, values, 0), present.to(values))
    mean: Tensor = total / count
    return mean


def spread(numbers: Tensor, rows: Tensor) -> Tensor:
    """Reshape numbers (T,) or (T, K) to broadcast against rows of shape (T, \\*shape) or (T, K, \\*shape)."""
    return numbers.reshape(*numbers.shape, *[1] * (rows.dim() - numbers.dim()))
