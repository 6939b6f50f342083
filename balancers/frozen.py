"""Weights read off the first step and then kept: what GradNorm has to beat at no cost at all."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from balancers.base import Balancer, close, fail
from balancers.shared_gradients import Shared, TaskGradients, mean_over_ranks, parameters_of, task_gradients


class Frozen(Balancer):
    """Static weights that the first step sets: ``w_i`` proportional to ``1/L_i(0)`` or to ``1/||grad_W L_i(0)||``.

    Args:
        tasks: names of the tasks.
        rule: ``"loss"`` or ``"gradient"``.
        shared: W, as for `GradNorm`; only the rule ``"gradient"`` reads it.

    Raises:
        ValueError: an unknown rule, no shared layer for ``"gradient"``; in the first step a loss or a norm that is
            not finite and above 0.

    >>> import torch
    >>> from balancers import Frozen
    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = Frozen(tasks=["near", "far"], rule="loss")
    >>> balancer.backward({"near": x.sum(), "far": 3 * x.sum()})
    >>> balancer.weights
    tensor([1.5000, 0.5000])
    """

    def __init__(self, tasks: Sequence[str], rule: Literal["loss", "gradient"], shared: Shared | None = None) -> None:
        super().__init__(tasks)
        if rule not in ("loss", "gradient"):
            fail("rule", "'loss' or 'gradient'", repr(rule))
        if rule == "gradient" and shared is None:
            fail("shared", "the shared layer where the rule is 'gradient'", None)
        self.rule = rule
        self._parameters = [] if shared is None else parameters_of(shared)

    def __call__(self, losses: Mapping[str, Tensor]) -> Tensor:
        """See `Balancer.__call__`."""
        L = self._collect(losses)
        if self._step == 0:
            values = mean_over_ranks(L.detach())[0]
            self._begin(values, self._norms(losses, values) if self._begins_with_norms() else None)
        self._end_step(L.detach(), None)
        return (self._w * L).sum()

    def _begins_with_norms(self) -> bool:
        return self.rule == "gradient" and self._step == 0

    def _norms(self, losses: Mapping[str, Tensor], values: Tensor) -> Tensor:
        """||grad_W L_i(0)||, shape (T,)."""
        ordered = [losses[task] for task in self.tasks]
        found = TaskGradients(self._parameters, len(values))
        task_gradients(ordered, self.tasks, torch.ones_like(values), found)
        return found.norms()

    def _begin(self, values: Tensor, norms: Tensor | None) -> None:
        """Settle the weights."""
        measured = values if norms is None else norms
        for row in measured.reshape(-1, len(self.tasks)).tolist():
            for task, value in zip(self.tasks, row, strict=True):
                if not 0 < value < float("inf"):
                    fail(f"{self.rule} of {task} in the first step", "finite and > 0", value)
        self._w = close(1 / measured)

    def _alike(self) -> tuple[Hashable, ...]:
        return *super()._alike(), self.rule

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        return super().state_dict() | {"rule": self.rule}
