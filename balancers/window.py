"""The backward passes that make up one step under gradient accumulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from balancers.losses import known
from balancers.ranks import spread, sum_over_ranks
from balancers.weights import fail


class Sums(NamedTuple):
    """Sums over backward passes, of the passes in which a task was present.

    Attributes:
        values: of the losses, shape (T,).
        counts: passes with the task, shape (T,).
        rows: for each parameter of W of the T gradients, (T, \\*shape) each, or none.
    """

    values: Tensor
    counts: Tensor
    rows: list[Tensor]

    @classmethod
    def of(cls, values: Tensor, rows: Sequence[Tensor]) -> Sums:
        """Return the sums of one pass; a loss of 0 or NaN is absent."""
        numbers = known(values)
        if numbers is not None and all(abs(number) > 0 for number in numbers):  # NaN is not above 0
            return cls(values, torch.ones_like(values), list(rows))
        present = values.abs() > 0
        masked = [torch.where(spread(present, row), row, 0) for row in rows]
        return cls(torch.where(present, values, 0), present.to(values.dtype), masked)

    def means(self) -> tuple[Tensor, list[Tensor]]:
        """Return the means over the passes and over the ranks of a process group; NaN for a task that was absent."""
        values, counts, *rows = sum_over_ranks(self.values, self.counts, *self.rows)
        return values / counts, [row / spread(counts.clamp(min=1), row).to(row) for row in rows]


class Window:
    """Sums losses and gradients over ``size`` backward passes; their means are those of one large batch.

    Args:
        size: backward passes in a step.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen = 0  # of the step that is under way
        self._sums = Sums(torch.zeros(0), torch.zeros(0), [])

    def add(self, values: Tensor, gradients: Sequence[Tensor]) -> Sums | None:
        """Add one backward pass.

        Args:
            values: losses, shape (T,).
            gradients: for each parameter of W the T gradients, (T, \\*shape) each, or none.

        Returns:
            The sums of the whole step if it ends with this pass.
        """
        now, before = Sums.of(values, gradients), self._sums
        if self.seen and len(now.rows) == len(before.rows):
            rows = [a + b for a, b in zip(before.rows, now.rows, strict=True)]
            now = Sums(before.values + now.values, before.counts + now.counts, rows)
        elif self.seen:  # W was frozen or thawed inside the step
            now = Sums(before.values + now.values, before.counts + now.counts, [])
        self._sums = now
        self.seen += 1
        return self.close() if self.seen == self.size else None

    def rescale(self, factors: Tensor) -> None:
        """Multiply the gradients of the passes so far, where w has changed since, shape (T,)."""
        values, counts, rows = self._sums
        self._sums = Sums(values, counts, [row * spread(factors, row).to(row) for row in rows])

    def close(self) -> Sums | None:
        """Return the sums so far, for a step that ends before its window is full; ``None`` if there are none."""
        if not self.seen:
            return None
        whole = self._sums
        self.seen, self._sums = 0, Sums(torch.zeros(0), torch.zeros(0), [])
        return whole

    def to(self, like: Tensor) -> None:
        """Move to the device of a tensor."""
        values, counts, rows = self._sums
        self._sums = Sums(values.to(like), counts.to(like), [row.to(like.device) for row in rows])

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {
            "size": self.size,
            "seen": self.seen,
            "values": self._sums.values.clone(),
            "counts": self._sums.counts.clone(),
            "gradients": [row.clone() for row in self._sums.rows],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: the state is in the middle of a window of another size.
        """
        if state["seen"] and int(state["size"]) != self.size:
            fail("accumulate", f"{state['size']}, as in the state", self.size)
        self.seen, values = int(state["seen"]), state["values"].clone()
        counts = state.get("counts", torch.full_like(values, float(self.seen)))  # of version 0.1: every pass
        self._sums = Sums(values, counts.clone(), [row.clone() for row in state["gradients"]])
