"""The gradient norm of each task's loss on the shared layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def gradient_norms(losses: Mapping[str, Tensor], tasks: Sequence[str], parameters: Sequence[Tensor]) -> Tensor:
    """``||grad_W L_i||_2`` for each task, shape (T,), detached; the graph stays.

    Under data parallel training the gradients are averaged over the ranks before the norm is taken, as the
    network's own gradient is.

    Args:
        losses: for each task its own scalar with graph (not a slice of a stack, whose gradient would run through
            every head).
        tasks: the order of the result.
        parameters: W.

    Raises:
        ValueError: a loss does not depend on W.
    """
    rows = []
    for task in tasks:
        gradients = torch.autograd.grad(losses[task].squeeze(), parameters, retain_graph=True, allow_unused=True)
        if all(g is None for g in gradients):
            raise ValueError(f"Loss of task `{task}` should depend on the shared layer. Found no gradient there.")
        parts = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        rows.append(_at_least_float(torch.cat([part.flatten() for part in parts])))
    (averaged,) = mean_over_ranks(torch.stack(rows))
    norms: Tensor = torch.linalg.vector_norm(averaged, dim=1)
    return norms


def mean_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor averaged over the ranks of a running process group, so that all ranks hold the same numbers."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensors
    averaged = []
    for tensor in tensors:
        total = tensor.clone()
        dist.all_reduce(total)
        averaged.append(total / dist.get_world_size())
    return tuple(averaged)


def _at_least_float(tensor: Tensor) -> Tensor:
    """Half precision is too coarse for a norm over a whole layer."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
