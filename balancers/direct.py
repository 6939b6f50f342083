"""Weights that meet GradNorm's targets by themselves, without a learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from balancers.base import close


class DirectWeights:
    """The weights at which every gradient norm is in proportion to its target, from smoothed norms and losses.

    ``G_i = w_i ||grad_W L_i||`` is in proportion to its target ``Gbar r_i^alpha`` for every i where, up to the common
    scale::

        w_i = r_i^alpha / ||grad_W L_i||

    One batch's norms and losses are noisy, so both are exponential moving averages over the steps so far, freed of
    their start as in Adam (Kingma and Ba, ICLR 2015, section 3).

    Args:
        tasks: T.
        smoothing: what an average keeps of itself at each step, in [0, 1); 0.99 forgets over a hundred steps.
    """

    def __init__(self, tasks: int, smoothing: float) -> None:
        self.smoothing = smoothing
        self.sums = torch.zeros(3, tasks)  # of ||grad_W L_i||, of L_i, of the weights of both

    def next(
        self, w: Tensor, G: Tensor, losses: Tensor, L0: Tensor, alpha: float | Tensor, refused: Tensor
    ) -> tuple[Tensor, Tensor]:
        """w(t+1) from what the step with w(t) measured, all (..., T), and whether it was refused.

        Nothing changes where ``refused``, bools of shape (...), or where the new weights would not be finite and
        above 0: a loss that has fallen below 0 has no rate, a task without gradient no weight.
        """
        now = torch.stack([G / w, losses, torch.ones_like(w)])
        sums = torch.lerp(now, self.sums, self.smoothing)
        norms, progress = sums[0] / sums[2], sums[1] / sums[2] / L0
        moved = close((progress / progress.sum(-1, keepdim=True)) ** alpha / norms)
        refused = refused | ~((moved > 0) & moved.isfinite()).all(-1)
        kept = refused.unsqueeze(-1)
        self.sums = torch.where(kept, self.sums, sums)
        return torch.where(kept, w, moved), refused

    def to(self, like: Tensor) -> None:
        """Move to the device and dtype of a tensor."""
        self.sums = self.sums.to(like)
