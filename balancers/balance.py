"""Algorithm 1 of GradNorm on numbers: the gradient of L_grad in closed form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Measurement(NamedTuple):
    """The quantities that the step with w(t) has measured, each of shape (..., T) but alpha."""

    w: Tensor  # w_i(t)
    G: Tensor  # ||grad_W w_i L_i||_2
    losses: Tensor  # L_i(t)
    initial_losses: Tensor  # L_i(0)
    alpha: float | Tensor  # a number or shape (..., 1)


class Balance(NamedTuple):
    """The quantities of Algorithm 1 at one step, each of shape (..., T) but the last, bools of shape (...)."""

    gradient: Tensor  # dL_grad/d ln w_i
    rates: Tensor  # r_i
    gaps: Tensor  # G_i - Gbar * r_i ** alpha
    refused: Tensor  # a loss or a norm is not finite


def balance(G: Tensor, losses: Tensor, initial_losses: Tensor, alpha: float | Tensor) -> Balance:
    """The gradient of ``L_grad = sum_i |G_i - Gbar r_i^alpha|`` with respect to ln w, in closed form.

    Since ``G_i = w_i ||grad_W L_i||`` for w_i > 0 and the target is a constant (paper, section 3.3),
    ``w_i dL_grad/dw_i = sign(G_i - target_i) G_i`` exactly; no second derivative is needed. Where G_i meets its
    target to within rounding the subgradient 0 is taken: Adam would make a full step of the noise's sign.

    Every operation here counts: on small networks they, not the gradients, are what GradNorm costs.

    Args:
        G: ``||grad_W w_i L_i||_2``, shape (..., T).
        losses: L_i(t), shape (..., T).
        initial_losses: L_i(0), shape (..., T).
        alpha: strength of the restoring force, a number or shape (..., 1).
    """
    T = G.shape[-1]
    progress = losses / initial_losses  # Ltilde_i
    share = progress / progress.sum(-1, keepdim=True)  # r_i / T
    gap = torch.addcmul(G, share**alpha, G.sum(-1, keepdim=True) * T ** (alpha - 1), value=-1)
    open_ = torch.sub(gap.abs(), G, alpha=8 * torch.finfo(gap.dtype).eps) > 0
    return Balance(torch.copysign(G, gap) * open_, share * T, gap, not_finite(gap))


def not_finite(values: Tensor) -> Tensor:
    """Whether any of a few numbers is not finite: (..., T) to bools (...) on their device, in three operations."""
    return values.sum(-1) * 0 != 0
