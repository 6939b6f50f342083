"""The gradient of each task's loss on the shared layer, and its norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from balancers.base import fail

Shared = nn.Module | nn.Parameter | Sequence[nn.Parameter]


def parameters_of(shared: Shared) -> list[Tensor]:
    """The trainable parameters that W consists of.

    Raises:
        ValueError: there are none.
    """
    if isinstance(shared, nn.Module):
        parameters: list[Tensor] = list(shared.parameters())
    elif isinstance(shared, Tensor):
        parameters = [shared]
    else:
        parameters = list(shared)
    parameters = [p for p in parameters if isinstance(p, Tensor) and p.requires_grad]
    if not parameters:
        found = type(shared).__name__
        fail("shared", "a module or parameters with at least one that requires grad", found)
    return parameters


def task_gradients(
    losses: Sequence[Tensor], tasks: Sequence[str], parameters: Sequence[Tensor], scale: Tensor | None = None
) -> list[Tensor]:
    """``grad_W L_i``, task by task through the graph, which stays.

    Args:
        losses: for each task its own scalar with graph (not a slice of a stack, whose gradient would run through
            every head).
        tasks: their names.
        parameters: W.
        scale: multiplies every gradient.

    Returns:
        For each parameter of W the T gradients, shape (T, \\*shape), detached.

    Raises:
        ValueError: a loss does not depend on W.
    """
    rows = []
    for task, loss in zip(tasks, losses, strict=True):
        factor = None if scale is None else scale.to(loss).reshape(loss.shape)
        rows.append(torch.autograd.grad(loss, parameters, factor, retain_graph=True, allow_unused=True))
        if all(gradient is None for gradient in rows[-1]):
            raise independent(task)
    return stack_rows(rows, parameters)


def independent(task: str) -> ValueError:
    """The error of a loss that does not depend on W."""
    return ValueError(f"Loss of task `{task}` should depend on the shared layer. Found no gradient there.")


def stack_rows(rows: Sequence[Sequence[Tensor | None]], parameters: Sequence[Tensor]) -> list[Tensor]:
    """T gradients of each parameter, shape (T, \\*shape) each; zero where a task does not depend on it."""
    filled = [
        [torch.zeros_like(p) if g is None else g for g, p in zip(row, parameters, strict=True)] for row in rows
    ]
    return [torch.stack(column) for column in zip(*filled, strict=True)]


def norms_of(gradients: Sequence[Tensor]) -> Tensor:
    """The 2-norm of each task's gradient over all parameters of W: from (T, \\*shape) each to shape (T,).

    At least in single precision: half is too coarse for a norm over a whole layer.
    """
    parts = [
        torch.linalg.vector_norm(g.flatten(1), dim=1, dtype=torch.promote_types(g.dtype, torch.float32))
        for g in gradients
    ]
    whole: Tensor = parts[0] if len(parts) == 1 else torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return whole


def mean_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor averaged over the ranks of a running process group, so that all ranks hold the same numbers."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensors
    averaged = []
    for tensor in tensors:
        total = tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
        dist.all_reduce(total)
        averaged.append(total / dist.get_world_size())
    return tuple(averaged)
