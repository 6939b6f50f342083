"""Weights as tensors of shape (..., T): scaled, checked, put in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor


def fail(parameter: str, rule: str, found: object) -> NoReturn:
    """Raise the `ValueError` of our one grammar for bad input."""
    raise ValueError(f"{parameter}: expected {rule}, got {found}")


class LossRefused(ValueError):  # noqa: N818 - no error of anybody
    """A loss that a method cannot train with, though others can: the message says what to do."""


def refuse(parameter: str, rule: str, found: object) -> NoReturn:
    """Raise `LossRefused` in the same grammar."""
    raise LossRefused(f"{parameter}: expected {rule}, got {found}")


def close(w: Tensor) -> Tensor:
    """Scale weights of shape (..., T) so that they sum to T."""
    return w * (w.shape[-1] / w.sum(-1, keepdim=True))


def close_on_host(w: Sequence[float]) -> list[float]:
    """Scale T weights on the host so that they sum to T."""
    factor = len(w) / sum(w)
    return [factor * number for number in w]


def close_some(moved: Tensor, w: Tensor, present: Tensor) -> Tensor:
    """Return ``w`` with the weights of present tasks replaced by ``moved``, scaled to keep their sum.

    Args:
        moved: shape (..., T); read where a task is present.
        w: shape (..., T).
        present: bools of shape (..., T).
    """
    moved = torch.where(present, moved, 0)
    before = torch.where(present, w, 0).sum(-1, keepdim=True)
    return torch.where(present, moved * (before / moved.sum(-1, keepdim=True)), w)


def column(numbers: Sequence[Any]) -> Any:
    """Combine a setting of K balancers: a number if all have the same, else shape (K, 1)."""
    return numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)


def per_task(parameter: str, numbers: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    """Return a number > 0 for each task as a tensor of shape (T,).

    Raises:
        ValueError: the tasks differ, or a number is not finite or not above 0.
    """
    if numbers.keys() != set(tasks):
        fail(parameter, f"a number for each of {list(tasks)}", dict(numbers))
    for task, number in numbers.items():
        if not 0 < number < float("inf"):
            fail(f"{parameter}[{task!r}]", "a finite number > 0", number)
    return torch.tensor([float(numbers[task]) for task in tasks])
