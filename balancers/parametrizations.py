"""Parametrisations of w in GradNorm: the base class, the linear and the logarithmic one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from balancers.adam import VectorAdam
from balancers.balance import Balance, HostMeasurement, Measurement
from balancers.weights import close, close_on_host, close_some, column


class Parametrization(ABC):
    """Moves w and keeps the state that this needs.

    Tensors may have more dimensions before the last, T: one object can move the weights of K balancers.
    """

    @abstractmethod
    def next(self, now: Measurement, balance: Balance, step: int) -> tuple[Tensor, Tensor]:
        """Compute one step of w.

        Args:
            now: the measurement of the step with w(t). Absent tasks keep their w, and the others keep their sum.
            balance: the result of Algorithm 1 for this measurement.
            step: t.

        Returns:
            w(t+1), which is w(t) where the step was refused, and bools of shape (...) that say where it was refused.
        """

    @abstractmethod
    def next_on_host(self, now: HostMeasurement, gradient: Sequence[float], step: int) -> list[float]:
        """Compute the same for a measurement on the host.

        Args:
            now: the measurement of the step with w(t).
            gradient: ``dL_grad/d ln w_i``.
            step: t.

        Returns:
            w(t+1).

        Raises:
            ArithmeticError: a number is too large or too small; nothing has changed then.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """The entries of `balancers.parametrizations.blank` that this parametrisation uses."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; entries of other parametrisations are not read."""

    @abstractmethod
    def to(self, like: Tensor) -> None:
        """Move to the device and dtype of a tensor."""

    @abstractmethod
    def alike(self) -> tuple[Hashable, ...]:
        """Return the settings that must be equal for K balancers to be moved by one object."""

    def merge(self, others: Sequence[Self]) -> None:  # noqa: B027 - not every one has settings that may differ
        """Adopt the settings in which K balancers may differ, as columns of shape (K, 1)."""

    @property
    def needs_gradients(self) -> bool:
        """True if a task whose gradient on W is 0 is left out of a step; the paper's algorithm keeps it."""
        return False

    @property
    def floor_hits(self) -> Tensor | None:
        """The number of times a weight was stopped at the floor, on the device; ``None`` if there is no floor."""
        return None


class _ByAdam(Parametrization):
    """Adam on some function of w.

    Args:
        tasks: T.
        lr: learning rate.
        decay_steps: let it fall linearly to 0 over so many steps; ``None`` keeps it.
    """

    def __init__(self, tasks: int, lr: float, decay_steps: int | None) -> None:
        self.lr: float | Tensor = lr
        self.decay_steps = decay_steps
        self.adam = VectorAdam(tasks, lr)

    @abstractmethod
    def _moved(self, w: Tensor, balance: Balance, present: Tensor | None) -> Tensor:
        """Return w after one step of Adam; the tasks that move keep the sum of their weights, which is T for all."""

    def _decay(self, step: int) -> None:
        if self.decay_steps is not None:
            self.adam.lr = self.lr * max(0.0, 1 - step / self.decay_steps)

    def next(self, now: Measurement, balance: Balance, step: int) -> tuple[Tensor, Tensor]:
        """See `Parametrization.next`."""
        self._decay(step)
        present, kept = now.present, balance.refused.unsqueeze(-1)
        if present is not None:
            present = present & (present.sum(-1, keepdim=True) > 1)  # a task alone has nothing to be balanced with
            kept = kept | ~present
        moved = self._moved(now.w, balance, present)
        return torch.where(kept, now.w, moved), balance.refused

    def state_dict(self) -> dict[str, Any]:
        """See `Parametrization.state_dict`."""
        return {"adam": self.adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Parametrization.load_state_dict`."""
        self.adam.load_state_dict(state["adam"])

    def to(self, like: Tensor) -> None:
        """See `Parametrization.to`."""
        self.adam.to(like)
        if isinstance(self.lr, Tensor):
            self.lr = self.lr.to(like)

    def alike(self) -> tuple[Hashable, ...]:
        """See `Parametrization.alike`."""
        return type(self), self.decay_steps, self.adam.counts_each

    def merge(self, others: Sequence[Self]) -> None:
        """See `Parametrization.merge`."""
        self.lr = column([other.lr for other in others])
        self.adam.lr = column([other.adam.lr for other in others])


class Linear(_ByAdam):
    """The parametrisation in which w itself moves, as in the paper, and stops at a floor above 0.

    Args:
        tasks: T.
        lr: learning rate.
        decay_steps: let it fall linearly to 0 over so many steps; ``None`` keeps it.
        floor: smallest w, before the scaling to sum T.
    """

    def __init__(self, tasks: int, lr: float, decay_steps: int | None, floor: float) -> None:
        super().__init__(tasks, lr, decay_steps)
        self.floor = floor
        self._floor_hits = torch.zeros((), dtype=torch.long)

    def _moved(self, w: Tensor, balance: Balance, present: Tensor | None) -> Tensor:
        moved = w.clone()
        self.adam.move(moved, balance.gradient / w, balance.refused.float(), present)
        low = moved < self.floor
        self._floor_hits += (low if present is None else low & present).sum(-1)
        moved = moved.clamp(min=self.floor)
        return close(moved) if present is None else close_some(moved, w, present)

    def next_on_host(self, now: HostMeasurement, gradient: Sequence[float], step: int) -> list[float]:
        """See `Parametrization.next_on_host`."""
        self._decay(step)
        steps = self.adam.steps_on_host([g / w for g, w in zip(gradient, now.w, strict=True)])
        moved = [w - part for w, part in zip(now.w, steps, strict=True)]
        low = sum(number < self.floor for number in moved)
        if low:
            self._floor_hits += low
            moved = [max(number, self.floor) for number in moved]
        return close_on_host(moved)

    @property
    def floor_hits(self) -> Tensor | None:
        """See `Parametrization.floor_hits`."""
        return self._floor_hits

    def state_dict(self) -> dict[str, Any]:
        """See `Parametrization.state_dict`."""
        return super().state_dict() | {"floor_hits": self._floor_hits.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Parametrization.load_state_dict`."""
        super().load_state_dict(state)
        self._floor_hits = state["floor_hits"].clone()

    def to(self, like: Tensor) -> None:
        """See `Parametrization.to`."""
        super().to(like)
        self._floor_hits = self._floor_hits.to(like.device)

    def alike(self) -> tuple[Hashable, ...]:
        """See `Parametrization.alike`."""
        return *super().alike(), self.floor


class Log(_ByAdam):
    """The parametrisation in which ln w moves, so that w > 0 by construction."""

    def _moved(self, w: Tensor, balance: Balance, present: Tensor | None) -> Tensor:
        moved = w.log()
        self.adam.move(moved, balance.gradient, balance.refused.float(), present)
        return moved.softmax(-1) * w.shape[-1] if present is None else close_some(moved.exp(), w, present)

    def next_on_host(self, now: HostMeasurement, gradient: Sequence[float], step: int) -> list[float]:
        """See `Parametrization.next_on_host`."""
        self._decay(step)
        steps = self.adam.steps_on_host(gradient)
        moved = [math.log(w) - part for w, part in zip(now.w, steps, strict=True)]
        largest = max(moved)
        return close_on_host([math.exp(number - largest) for number in moved])


def blank(w: Tensor) -> dict[str, Any]:
    """Return the state of all parametrisations before the first step, for weights like ``w`` of shape (..., T).

    A saved state has every entry, including those that its parametrisation does not use.
    """
    moments = w.new_zeros(2, *w.shape)
    return {
        "adam": {"moments": moments, "steps": torch.zeros(w.shape[:-1], device=w.device)},
        "floor_hits": torch.zeros(w.shape[:-1], dtype=torch.long, device=w.device),
        "direct": w.new_zeros(3, *w.shape),
    }
