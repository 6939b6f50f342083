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

    CHUNKS, BLOCK = 256, 32

    def __init__(self, tasks: int) -> None:
        self.steps = 0
        self._length = 1  # steps in a chunk
        self._sums = torch.zeros(2, self.CHUNKS, tasks)  # of w, of ln w
        self._waiting: list[Tensor] = []  # the last steps, fewer than a block, so that most steps compute nothing

    def add(self, w: Tensor) -> None:
        """Add the weights of one step, shape (..., T); the tensor must not be changed in place later."""
        self._waiting.append(w)
        self.steps += 1
        if len(self._waiting) == self.BLOCK:
            self._fold()

    def _fold(self) -> None:
        w = torch.stack(self._waiting)
        self._waiting = []
        first = (self.steps - self.BLOCK) // self._length
        if first == self.CHUNKS:
            merged = self._sums[:, 0::2] + self._sums[:, 1::2]
            self._sums = torch.cat([merged, torch.zeros_like(merged)], dim=1)
            self._length *= 2
            first //= 2
        chunks = max(1, self.BLOCK // self._length)
        both = torch.stack([w, w.log()]).view(2, chunks, -1, *w.shape[1:])
        self._sums[:, first : first + chunks] += both.sum(2)

    def mean(self, kind: str, start: float) -> Tensor:
        """Arithmetic or geometric mean from the fraction ``start`` of the run on, shape (..., T)."""
        geometric, first = kind == "geometric", int(start * self.steps) // self._length
        total = self._sums[int(geometric), first:].sum(0)
        begin, folded = first * self._length, self.steps - len(self._waiting)
        for w in self._waiting[max(0, begin - folded) :]:
            total = total + (w.log() if geometric else w)
        total = total / (self.steps - begin)
        return total.exp() if geometric else total

    def to(self, like: Tensor) -> None:
        """Move to the device and dtype of a tensor."""
        self._sums = self._sums.to(like)
        self._waiting = [w.to(like) for w in self._waiting]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers."""
        waiting = [w.clone() for w in self._waiting]
        return {"steps": self.steps, "length": self._length, "sums": self._sums.clone(), "waiting": waiting}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.steps, self._length = int(state["steps"]), int(state["length"])
        self._sums = state["sums"].clone()
        self._waiting = [w.clone() for w in state["waiting"]]
