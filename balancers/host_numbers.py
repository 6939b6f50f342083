"""Plain numbers in place of tensors where T numbers lie on the host: an operator costs more than its arithmetic."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

_CODES = {torch.float32: "f", torch.float64: "d"}  # of `array`


def holds(dtype: torch.dtype) -> bool:
    """Return whether `tensor_of` makes tensors of this dtype."""
    return dtype in _CODES


def tensor_of(numbers: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return numbers as a tensor on the host, rounded to its dtype. No operator of torch is called."""
    return torch.frombuffer(array(_CODES[dtype], numbers), dtype=dtype)


def refuse_infinite(numbers: Sequence[float]) -> None:
    """Refuse numbers that are not finite, or whose sum is not.

    Raises:
        OverflowError: as Python itself raises it for a power or an exponential.
    """
    if not math.isfinite(sum(numbers)):
        raise OverflowError("a number is not finite")
