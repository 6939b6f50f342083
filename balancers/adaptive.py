"""Common base of the balancers whose weights move: averages, and a count of refused steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balancers.averages import TrajectoryMean
from balancers.base import Average, Balancer, StepRecord
from balancers.weights import close


class Adaptive(Balancer):
    """A balancer that moves its weights and averages them over the run.

    A step whose losses or gradients are not finite leaves weights and moments as they are and is counted on the
    device; the count is reported where the user next reads weights or state, so that no step waits for it.

    Args:
        tasks: names of the tasks.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks)
        self._means = TrajectoryMean(len(self.tasks))
        self._not_finite = torch.zeros((), dtype=torch.long)

    @property
    def not_finite_steps(self) -> int:
        """The number of steps in which a loss or a gradient was not finite and w stayed. Waits for the device."""
        return int(self._not_finite.sum())

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        return super().state_dict() | {"means": self._means.state_dict(), "not_finite": self._not_finite.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        self._means.load_state_dict(state["means"])
        self._not_finite = state["not_finite"].clone()

    def _used(self, record: StepRecord) -> None:
        super()._used(record)
        self._means.add(record.weights)

    def _mean(self, kind: Average, start: float) -> Tensor:
        return close(self._means.mean(kind, start) if self._means.steps else self._w)

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._means.to(like)
        self._not_finite = self._not_finite.to(like.device)

    def _notes(self) -> Iterator[tuple[str, str]]:
        count = self.not_finite_steps
        if count:
            yield (
                "not finite",
                f"{count} steps had a loss or gradient that is not finite; the weights stayed as they were in them. "
                "A few at the start are GradScaler's search for its scale.",
            )
        yield from super()._notes()
