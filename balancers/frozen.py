"""Weights that are set by the first step and then constant: a baseline for GradNorm that costs nothing."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from balancers.auto_layer import auto_or_named
from balancers.base import Balancer
from balancers.losses import StepLosses
from balancers.ranks import mean_over_ranks
from balancers.shared_gradients import TaskGradients, task_gradients
from balancers.shared_layer import SharedOrAuto
from balancers.weights import close, fail, refuse


class Frozen(Balancer):
    """Static weights that the first step sets: ``w_i`` proportional to ``1/L_i(0)`` or to ``1/||grad_W L_i(0)||``.

    The weight of a task that is absent from the first step, or has no gradient in it, is set by the first step that
    has it; until then it is the mean weight.

    Args:
        tasks: names of the tasks.
        rule: ``"loss"`` or ``"gradient"``.
        shared: W, as for `GradNorm`; only the rule ``"gradient"`` reads it.

    Raises:
        ValueError: an unknown rule, no shared layer for ``"gradient"``; in the first step of a task a loss below 0
            with the rule ``"loss"``, or one that is infinite.

    >>> import torch
    >>> from balancers import Frozen
    >>> x = torch.ones(1, requires_grad=True)
    >>> balancer = Frozen(tasks=["near", "far"], rule="loss")
    >>> balancer.backward({"near": x.sum(), "far": 3 * x.sum()})
    >>> balancer.weights
    tensor([1.5000, 0.5000])
    """

    optional = Balancer.optional | {"measured"}

    def __init__(
        self, tasks: Sequence[str], rule: Literal["loss", "gradient"], shared: SharedOrAuto | None = None
    ) -> None:
        super().__init__(tasks)
        if rule not in ("loss", "gradient"):
            fail("rule", "'loss' or 'gradient'", repr(rule))
        if rule == "gradient" and shared is None:
            fail("shared", "the shared layer, which the rule 'gradient' needs", None)
        self.rule = rule
        self._shared = None if shared is None else auto_or_named(shared, self.tasks)
        self._measured = torch.full((len(self.tasks),), torch.nan)  # of the first step of each task
        self._open = True  # whether one is still NaN

    def _weigh(self, step: StepLosses) -> Tensor:
        if self._waits():
            values = mean_over_ranks(step.values)
            self._begin(values, None)
            if self._shared is not None and self.rule == "gradient":
                self._shared.look_at(step)
            W = [] if self._shared is None else self._shared.leaves()
            if W and self._wants_norms(values):
                found = TaskGradients(W, step)
                task_gradients(step.factors(torch.ones_like(self._w)), found)
                self._begin(values, found.norms().to(values))
        self._end_step(step.values, None)
        return step.weighted(self._w, step.L)

    def _waits(self) -> bool:
        return self._open

    def _wants_norms(self, values: Tensor) -> bool:
        return self.rule == "gradient" and bool((self._measured.isnan() & (values.abs() > 0)).any())

    def _begin(self, values: Tensor, norms: Tensor | None) -> None:
        """Settle the weights of the tasks that have their first loss or gradient."""
        measured = values if self.rule == "loss" else norms
        if measured is None:
            return
        first = self._measured.isnan()
        if self.rule == "loss":
            self._refuse(values, first)
        self._measured = torch.where(first & (measured > 0) & measured.isfinite(), measured, self._measured)
        unknown = self._measured.isnan()
        inverse = torch.where(unknown, 0, 1 / self._measured)
        count, total = (~unknown).sum(-1, keepdim=True), inverse.sum(-1, keepdim=True)
        if bool(unknown.any()):
            self._w = torch.where(unknown, 1, inverse * (count / total))
        else:
            self._w, self._open = close(1 / self._measured), False

    def _refuse(self, values: Tensor, first: Tensor) -> None:
        for task, value, new in zip(
            self.tasks * (values.numel() // len(self.tasks)), values.flatten().tolist(), first.flatten(), strict=True
        ):
            if new and (value < 0 or math.isinf(value)):
                report = fail if math.isinf(value) else refuse
                report(f"losses[{task!r}]", "a finite number > 0 in the first step, since w is 1/L", value)

    def _kind(self) -> str:
        return f"Frozen ({self.rule})"

    def _notes(self) -> Iterator[tuple[str, str]]:
        yield from super()._notes()
        if self._step and self._open:
            unknown = self._measured.isnan().reshape(-1, len(self.tasks)).any(0).tolist()
            names = ", ".join(f"`{task}`" for task, missing in zip(self.tasks, unknown, strict=True) if missing)
            what = "loss" if self.rule == "loss" else "gradient on the shared layer"
            yield "open", f"Tasks {names} have had no {what} yet: their weight is 1 until the first."

    def _alike(self) -> tuple[Hashable, ...]:
        return *super()._alike(), self.rule, self._open

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._measured = self._measured.to(like)

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        return super().state_dict() | {"rule": self.rule, "measured": self._measured.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        settled = 1 / self._w if self._step else torch.full_like(self._w, torch.nan)  # of version 0.1
        self._measured = state.get("measured", settled).clone()
        self._open = bool(self._measured.isnan().any())
