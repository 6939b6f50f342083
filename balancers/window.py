"""The backward passes that make up one step under gradient accumulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balancers.base import fail


class Window:
    """Sums losses and gradients over ``size`` backward passes; their means are those of one large batch.

    Args:
        size: backward passes in a step.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._seen = 0
        self._values = torch.zeros(0)
        self._gradients: list[Tensor] = []

    def add(self, values: Tensor, gradients: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]] | None:
        """Take in one backward pass.

        Args:
            values: losses, shape (T,).
            gradients: for each parameter of W the T gradients, (T, \\*shape) each, or none.

        Returns:
            The same of the whole step, if it ends here: means of the losses and of the gradients.
        """
        first = self._seen == 0
        self._values = values.clone() if first else self._values + values
        self._gradients = (
            list(gradients) if first else [a + b for a, b in zip(self._gradients, gradients, strict=True)]
        )
        self._seen += 1
        return self.close() if self._seen == self.size else None

    def close(self) -> tuple[Tensor, list[Tensor]] | None:
        """The means over what there is, where a step ends before its window is full; ``None`` if nothing is there."""
        if not self._seen:
            return None
        whole = self._values / self._seen, [g / self._seen for g in self._gradients]
        self._seen, self._values, self._gradients = 0, torch.zeros(0), []
        return whole

    def to(self, like: Tensor) -> None:
        """Move to the device of a tensor."""
        self._values = self._values.to(like)
        self._gradients = [g.to(like.device) for g in self._gradients]

    def state_dict(self) -> dict[str, Any]:
        """The sums so far."""
        return {
            "size": self.size,
            "seen": self._seen,
            "values": self._values.clone(),
            "gradients": [g.clone() for g in self._gradients],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: the state is of windows of another size.
        """
        if int(state["size"]) != self.size:
            fail("accumulate", f"{state['size']}, as in the state", self.size)
        self._seen = int(state["seen"])
        self._values, self._gradients = state["values"].clone(), [g.clone() for g in state["gradients"]]
