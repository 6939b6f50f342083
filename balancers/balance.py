"""Algorithm 1 of GradNorm on numbers: the gradient of L_grad in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from balancers.host_numbers import holds, refuse_infinite
from balancers.losses import host_numbers, known

_MOST = 64  # numbers that Python is faster with than torch's operators, by benchmarks.step_parts


class Measurement(NamedTuple):
    """The quantities that the step with w(t) has measured, each of shape (..., T) but alpha."""

    w: Tensor  # w_i(t)
    G: Tensor  # ||grad_W w_i L_i||_2
    losses: Tensor  # L_i(t)
    initial_losses: Tensor  # L_i(0)
    alpha: float | Tensor  # a number or shape (..., 1)
    present: Tensor | None = None  # which tasks take part, bools; None for all


class HostMeasurement(NamedTuple):
    """A `Measurement` of T numbers on the host, all finite and above 0, so that every task takes part."""

    w: list[float]
    G: list[float]
    losses: list[float]
    initial_losses: list[float]
    alpha: float
    eps: float  # of the tensors that they come from


class Balance(NamedTuple):
    """The quantities of Algorithm 1 at one step, each of shape (..., T) but the last, bools of shape (...)."""

    gradient: Tensor  # dL_grad/d ln w_i
    rates: Tensor  # r_i; NaN where a task is absent
    gaps: Tensor  # G_i - Gbar * r_i ** alpha
    refused: Tensor  # a loss or a norm is not finite


def balance(now: Measurement) -> Balance:
    """The gradient of ``L_grad = sum_i |G_i - Gbar r_i^alpha|`` with respect to ln w, in closed form.

    Since ``G_i = w_i ||grad_W L_i||`` for w_i > 0 and the target is a constant (paper, section 3.3),
    ``w_i dL_grad/dw_i = sign(G_i - target_i) G_i`` exactly; no second derivative is needed. Where G_i meets its
    target to within rounding the subgradient 0 is taken: Adam would make a full step of the noise's sign.

    Gbar and the mean of the rates are over the tasks that are present; the others have gradient and gap 0.

    Every operation here matters: on small networks GradNorm's cost is these operations, not the gradients.
    """
    if now.present is not None:
        return _balance_of_some(now, now.present)
    G, alpha, T = now.G, now.alpha, now.G.shape[-1]
    progress = now.losses / now.initial_losses  # Ltilde_i
    share = progress / progress.sum(-1, keepdim=True)  # r_i / T
    gap = torch.addcmul(G, share**alpha, G.sum(-1, keepdim=True) * T ** (alpha - 1), value=-1)
    return Balance(_gradient(G, gap), share * T, gap, not_finite(gap))


def _balance_of_some(now: Measurement, present: Tensor) -> Balance:
    G = torch.where(present, now.G, 0)
    progress = torch.where(present, now.losses / now.initial_losses, 0)
    count = present.sum(-1, keepdim=True)
    rates = progress * (count / progress.sum(-1, keepdim=True))
    target = G.sum(-1, keepdim=True) / count * rates**now.alpha
    gap = torch.where(present, G - target, 0)
    refused = not_finite(gap) | now.losses.isnan().all(-1)
    return Balance(_gradient(G, gap), torch.where(present, rates, torch.nan), gap, refused)


def _gradient(G: Tensor, gap: Tensor) -> Tensor:
    open_ = torch.sub(gap.abs(), G, alpha=8 * torch.finfo(gap.dtype).eps) > 0
    return torch.copysign(G, gap) * open_


def measured_on_host(now: Measurement) -> HostMeasurement | None:
    """Return a measurement by numbers on the host.

    Returns:
        ``None`` if they lie on a device, are those of K balancers or of very many tasks, or call for a mask: one is
        not finite or not above 0.
    """
    if isinstance(now.alpha, Tensor) or not holds(now.w.dtype) or now.w.numel() > _MOST:
        return None
    rows = [host_numbers(row) for row in (now.w, now.G, now.losses, now.initial_losses)]
    found = [row for row in rows if row and min(row) > 0 and sum(row) < math.inf]  # the sum of a NaN is NaN
    if len(found) < len(rows):
        return None
    w, G, losses, initial_losses = found
    return HostMeasurement(w, G, losses, initial_losses, now.alpha, torch.finfo(now.w.dtype).eps)


def balance_on_host(now: HostMeasurement) -> tuple[list[float], list[float]]:
    """Do what `balance` does, for a measurement on the host.

    Returns:
        ``dL_grad/d ln w_i`` and the rates r_i.

    Raises:
        ArithmeticError: a number is too large or too small.
    """
    T = len(now.G)
    progress = [loss / first for loss, first in zip(now.losses, now.initial_losses, strict=True)]
    per_rate, mean = T / sum(progress), sum(now.G) / T
    rates = [part * per_rate for part in progress]
    gaps = [G - mean * rate**now.alpha for G, rate in zip(now.G, rates, strict=True)]
    refuse_infinite(gaps)
    least = 8 * now.eps
    gradient = [math.copysign(G, gap) if abs(gap) > least * G else 0.0 for G, gap in zip(now.G, gaps, strict=True)]
    return gradient, rates


def take_part(
    losses: Tensor, G: Tensor, alpha: float | Tensor, needs_gradients: bool, waiting: Tensor | None
) -> Tensor | None:
    """Return the tasks that take part in a step's balance, bools of shape (..., T); ``None`` if all are known to.

    A task whose loss is missing, NaN or exactly 0 is absent. A loss below 0 has no training rate, which every alpha
    other than 0 needs.

    Args:
        losses: L_i(t), shape (..., T).
        G: the gradient norms, shape (..., T).
        alpha: strength of the restoring force.
        needs_gradients: leave out tasks whose gradient is 0.
        waiting: tasks without a balanced start, bools of shape (..., T), or ``None``. They are left out, unless their
            gradient overflows, which refuses the step.
    """
    numbers, norms = known(losses), known(G) or []
    if numbers is not None and waiting is None:
        reads_none = not isinstance(alpha, Tensor) and alpha == 0
        whole = all(abs(number) > 0 if reads_none else number > 0 for number in numbers)  # NaN is not above 0
        if whole and not (needs_gradients and 0 in norms):
            return None
    if isinstance(alpha, Tensor):
        losses = torch.where(alpha == 0, losses.abs(), losses)
    elif alpha == 0:
        losses = losses.abs()
    present = losses > 0
    if needs_gradients:
        present = present & (G != 0)
    return present if waiting is None else present & ~(waiting & G.isfinite())


def not_finite(values: Tensor) -> Tensor:
    """Return whether any number is not finite: (..., T) to bools (...) on their device, in three operations."""
    return values.sum(-1) * 0 != 0
