"""Uncertainty weighting."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from balancers.adam import VectorAdam
from balancers.adaptive import Adaptive
from balancers.balance import not_finite
from balancers.losses import StepLosses, known
from balancers.ranks import mean_over_ranks
from balancers.troubles import below_zero
from balancers.weights import column


class Uncertainty(Adaptive):
    """Homoscedastic uncertainty weighting: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh
    Losses for Scene Geometry and Semantics", CVPR 2018, https://arxiv.org/abs/1705.07115.

    The network minimises ``sum_i exp(-s_i) L_i + s_i`` over its parameters and over s (equation 7 with
    ``s_i = log sigma_i^2``, times 2), so ``w_i = exp(-s_i)``. The minimum over s_i alone is at ``w_i = 1 / L_i``.

    The gradient of s is a closed form, ``1 - w_i L_i``, and s has its own Adam here, so that the network's optimizer
    stays as it is; the paper trains s with the network's. The weights are the method's own and do not sum to T;
    `mean_weights` scales them so that they do. A task that is absent from a step keeps its s_i, and so does one whose
    loss is below 0, where the objective has no minimum over s_i: the weight would grow without end.

    Args:
        tasks: names of the tasks.
        lr: learning rate of s.

    Raises:
        ValueError: ``lr`` is not above 0.

    >>> import torch
    >>> from balancers import Uncertainty
    >>> x = torch.ones(2, requires_grad=True)
    >>> balancer = Uncertainty(tasks=["near", "far"])
    >>> balancer.backward({"near": (x**2).sum(), "far": (100 * x**2).sum()})
    >>> bool(balancer.weights[0] > balancer.weights[1] * 0.9)
    True
    """

    sums_to_T = False

    def __init__(self, tasks: Sequence[str], lr: float = 0.025) -> None:
        super().__init__(tasks)
        self._adam = VectorAdam(len(self.tasks), lr)

    def _weigh(self, step: StepLosses) -> Tensor:
        w = self._w
        self._end_step(mean_over_ranks(step.values), None)
        return step.weighted(w, step.L)

    def _end_step(self, values: Tensor, norms: Tensor | None) -> None:
        w, numbers = self._w, known(values)
        super()._end_step(values, norms)
        present = None
        if numbers is None or not all(number > 0 for number in numbers):  # NaN is not above 0
            present = values > 0
        s, losses = -w.log(), values if present is None else torch.where(values.isnan(), 0, values)
        refused = not_finite(losses) if present is None else not_finite(losses) | values.isnan().all(-1)
        self._not_finite += refused
        self._adam.move(s, 1 - w * losses, refused.float(), present)
        kept = refused.unsqueeze(-1) if present is None else refused.unsqueeze(-1) | ~present
        self._w = torch.where(kept, w, (-s).exp())

    def _notes(self) -> Iterator[tuple[str, str]]:
        yield from super()._notes()
        yield from below_zero(self.tasks, self._troubles.read())

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        return super().state_dict() | {"adam": self._adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        self._adam.load_state_dict(state["adam"])

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._adam.to(like)

    def _alike(self) -> tuple[Hashable, ...]:
        return *super()._alike(), self._adam.counts_each

    def _merge(self, others: Sequence[Self]) -> None:
        self._adam.lr = column([other._adam.lr for other in others])
