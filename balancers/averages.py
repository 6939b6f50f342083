"""Means of a weight trajectory over any tail of the run, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class TrajectoryMean:
    """Sums of w and of ln w, kept in at most ``CHUNKS`` consecutive chunks of the run.

    When the chunks are full, neighbours are merged and each then covers twice as many steps. Memory does not grow
    with steps, nothing waits for the device, and a mean may start anywhere to within one chunk, that is 1/128 of
    the run at worst.

    Args:
        tasks: T.
    """

    CHUNKS = 256

    def __init__(self, tasks: int) -> None:
        self.steps = 0
        self._length = 1  # steps in a chunk
        self._sums = torch.zeros(2, self.CHUNKS, tasks)  # of w, of ln w

    def add(self, w: Tensor) -> None:
        """Take in the weights of one step, shape (T,)."""
        index = self.steps // self._length
        if index == self.CHUNKS:
            merged = self._sums[:, 0::2] + self._sums[:, 1::2]
            self._sums = torch.cat([merged, torch.zeros_like(merged)], dim=1)
            self._length *= 2
            index //= 2
        self._sums[0, index] += w
        self._sums[1, index] += w.log()
        self.steps += 1

    def mean(self, kind: str, start: float) -> Tensor:
        """Arithmetic or geometric mean from the fraction ``start`` of the run on, shape (T,)."""
        first = int(start * self.steps) // self._length
        total = self._sums[int(kind == "geometric"), first:].sum(0) / (self.steps - first * self._length)
        return total.exp() if kind == "geometric" else total

    def to(self, like: Tensor) -> None:
        """Move to the device and dtype of a tensor."""
        self._sums = self._sums.to(like)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        return {"steps": self.steps, "length": self._length, "sums": self._sums.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.steps, self._length = int(state["steps"]), int(state["length"])
        self._sums = state["sums"].clone()
