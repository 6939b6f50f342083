"""Weights that meet GradNorm's targets directly, without a learning rate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balancers.balance import Balance, HostMeasurement, Measurement
from balancers.host_numbers import refuse_infinite, tensor_of
from balancers.parametrizations import Parametrization
from balancers.weights import close, close_on_host, close_some


class Direct(Parametrization):
    """Weights that make every gradient norm proportional to its target, computed from smoothed norms and losses.

    ``G_i = w_i ||grad_W L_i||`` is in proportion to its target ``Gbar r_i^alpha`` for every i where, up to the common
    scale::

        w_i = r_i^alpha / ||grad_W L_i||

    One batch's norms and losses are noisy, so both are exponential moving averages over the steps so far, corrected
    for their start as in Adam (Kingma and Ba, ICLR 2015, section 3).

    Args:
        tasks: T.
        smoothing: the share of itself that an average keeps at each step, in [0, 1); 0.99 averages a hundred steps.
    """

    def __init__(self, tasks: int, smoothing: float) -> None:
        self.smoothing = smoothing
        self._sums = torch.zeros(3, tasks)  # of ||grad_W L_i||, of L_i, of the weights of both

    def next(self, now: Measurement, balance: Balance, step: int) -> tuple[Tensor, Tensor]:
        """See `Parametrization.next`.

        A step whose new weights would not be finite and above 0 is refused too.
        """
        del step
        w, present = now.w, now.present
        measured = torch.stack([now.G / w, now.losses, torch.ones_like(w)])
        sums = torch.lerp(measured, self._sums, self.smoothing)
        if present is not None:
            sums = torch.where(present, sums, self._sums)
        norms, progress = sums[0] / sums[2], sums[1] / sums[2] / now.initial_losses
        if present is None:
            moved = close((progress / progress.sum(-1, keepdim=True)) ** now.alpha / norms)
        else:
            progress = torch.where(present, progress, 0)
            moved = close_some((progress / progress.sum(-1, keepdim=True)) ** now.alpha / norms, w, present)
        refused = balance.refused | ~((moved > 0) & moved.isfinite()).all(-1)
        kept = refused.unsqueeze(-1)
        self._sums = torch.where(kept, self._sums, sums)
        return torch.where(kept, w, moved), refused

    def next_on_host(self, now: HostMeasurement, gradient: Sequence[float], step: int) -> list[float]:
        """See `Parametrization.next_on_host`."""
        del gradient, step
        measured = [[G / w for G, w in zip(now.G, now.w, strict=True)], now.losses, [1.0] * len(now.w)]
        keep = self.smoothing
        sums = [
            [new + keep * (old - new) for new, old in zip(*rows, strict=True)]
            for rows in zip(measured, self._sums.tolist(), strict=True)
        ]
        parts = [loss / count / first for _, loss, count, first in zip(*sums, now.initial_losses, strict=True)]
        total = sum(parts)
        targets = [(part / total) ** now.alpha for part in parts]
        moved = close_on_host([t * n / norm for t, norm, n in zip(targets, sums[0], sums[2], strict=True)])
        if not all(number > 0 for number in moved):
            raise ZeroDivisionError("a weight is too small")
        refuse_infinite(moved)
        self._sums = tensor_of([number for row in sums for number in row], self._sums.dtype).view(3, -1)
        return moved

    @property
    def needs_gradients(self) -> bool:
        """See `Parametrization.needs_gradients`: without a gradient a task has no weight here."""
        return True

    def state_dict(self) -> dict[str, Any]:
        """See `Parametrization.state_dict`."""
        return {"direct": self._sums.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Parametrization.load_state_dict`."""
        self._sums = state["direct"].clone()

    def to(self, like: Tensor) -> None:
        """See `Parametrization.to`."""
        self._sums = self._sums.to(like)

    def alike(self) -> tuple[Hashable, ...]:
        """See `Parametrization.alike`."""
        return type(self), self.smoothing
