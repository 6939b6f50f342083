"""Uncertainty weighting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from balancers.adaptive import Adaptive, not_finite
from balancers.shared_gradients import mean_over_ranks


class Uncertainty(Adaptive):
    """Homoscedastic uncertainty weighting: Kendall, Gal, Cipolla, "Multi-Task Learning Using Uncertainty to Weigh
    Losses for Scene Geometry and Semantics", CVPR 2018, https://arxiv.org/abs/1705.07115.

    The network minimises ``sum_i exp(-s_i) L_i + s_i`` over its parameters and over s (equation 7 with
    ``s_i = log sigma_i^2``, times 2), so ``w_i = exp(-s_i)``. The minimum over s_i alone is at ``w_i = 1 / L_i``.

    The gradient of s is a closed form, ``1 - w_i L_i``, and s has its own Adam here, so that the network's optimizer
    stays as it is; the paper trains s with the network's. The weights are the method's own and do not sum to T;
    `mean_weights` scales them so that they do.

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
        super().__init__(tasks, lr)

    def __call__(self, losses: Mapping[str, Tensor]) -> Tensor:
        """See `Balancer.__call__`."""
        L, w = self._collect(losses), self._w
        self._end_step(mean_over_ranks(L.detach())[0], None)
        return (w * L).sum()

    def _end_step(self, values: Tensor, norms: Tensor | None) -> None:
        w = self._w
        super()._end_step(values, norms)
        s, refused = -w.log(), not_finite(values)
        self._move_by(s, 1 - w * values, refused)
        self._w = torch.where(refused.unsqueeze(-1), w, (-s).exp())
