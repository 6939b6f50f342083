"""The start of GradNorm, per task: L(0), weights that balance the first gradients, and notes about problems."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from balancers.weights import close, fail, refuse


def first_losses(found: Tensor | None, values: Tensor) -> Tensor:
    """Return L(0) after a step: for each task its first loss that is finite and above 0, NaN until then.

    Args:
        found: L(0) before the step, shape (..., T); ``None`` before the first.
        values: the losses of the step.
    """
    if found is None:
        found = torch.full_like(values, torch.nan)
    return torch.where(found.isnan() & (values > 0) & values.isfinite(), values, found)


def refuse_first_losses(values: Tensor, alpha: float | Tensor, tasks: Sequence[str]) -> None:
    """Refuse losses of the first step to which no training rate can be relative. Waits for the device.

    Raises:
        ValueError: a loss is below 0 or infinite, and alpha above 0.
    """
    reads = torch.as_tensor(alpha).expand((*values.shape[:-1], 1)).expand_as(values).flatten().tolist()
    names = list(tasks) * (values.numel() // len(tasks))
    for task, loss, strength in zip(names, values.flatten().tolist(), reads, strict=True):
        if strength > 0 and loss < 0:
            rule = (
                "a number > 0 in the first step, to which training rates are relative (a loss that may be below 0 "
                "needs alpha=0, which reads no loss, or initial_losses)"
            )
            refuse(f"losses[{task!r}]", rule, loss)
        if strength > 0 and math.isinf(loss):
            fail(f"losses[{task!r}]", "a finite number > 0 in the first step", loss)


def balanced(w: Tensor, values: Tensor, norms: Tensor, waiting: Tensor) -> tuple[Tensor, Tensor]:
    """Give tasks with their first gradient the weight that balances it. Waits for the device.

    The weighted gradients of the first tasks get equal norms, ``w_i`` proportional to ``1/||grad_W L_i||``; a later
    task gets the mean norm of the tasks before it. All weights are scaled to sum to T.

    Args:
        w: shape (..., T).
        values: the losses of the step, shape (..., T).
        norms: ``||grad_W L_i||``, shape (..., T).
        waiting: the tasks without a first gradient, bools of shape (..., T) on the host.

    Returns:
        The weights, and the tasks that still wait.
    """
    waits = waiting.to(values.device)
    usable = (values.abs() > 0) & (norms > 0) & norms.isfinite()
    first = usable & waits
    still = (waits & ~usable).cpu()
    if bool(first.all()):
        return close(1 / norms), still
    there = usable & ~waits
    inverse = torch.where(first, 1 / norms, 0)
    mean = torch.where(there, w * norms, 0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
    alone = first.sum(-1, keepdim=True) / inverse.sum(-1, keepdim=True)
    moved = torch.where(first, inverse * torch.where(there.any(-1, keepdim=True), mean, alone), w)
    return torch.where(first.any(-1, keepdim=True), close(moved), w), still


def task_notes(
    tasks: Sequence[str], found: Mapping[str, tuple[list[int], list[int]]], alpha: float | Tensor
) -> Iterator[tuple[str, str]]:
    """Yield each cause that matters to GradNorm alone, with its line.

    Args:
        tasks: T names.
        found: `balancers.troubles.Troubles.read`.
        alpha: of GradNorm; at 0 it reads no loss.
    """
    reads = isinstance(alpha, Tensor) or alpha > 0
    for task, negative, without in zip(tasks, found["negative"][0], found["no gradient"][0], strict=True):
        if negative and reads:
            yield (
                f"negative {task}",
                f"Loss of task `{task}` was below 0 in {negative} steps, where it has no training rate: its weight "
                "stayed. Set `alpha=0`, which reads no loss, or add a constant to the loss.",
            )
        if without:
            yield f"without {task}", f"Task `{task}` had no gradient on the shared layer in {without} steps."
