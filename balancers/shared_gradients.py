"""The gradient of each task's loss on the shared layer, and its norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from balancers.base import fail
from balancers.torch_private import Sink, static_graph_waits

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


class TaskGradients:
    """Takes in the T tasks' gradients of W. Keeps their norms; the gradients themselves, T times the size of W, only
    where the norm is of a mean over ranks or over backward passes.

    Args:
        parameters: W.
        tasks: T.
        keep: keep the gradients for `rows`.
        scale: what they come multiplied with (by a GradScaler, say). Norms and rows are without it: squares of scaled
            gradients may overflow where these do not.
        stacked: whether the parameters are those of K networks, (K, \\*shape) each; norms then are (T, K).
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        tasks: int,
        keep: bool = False,
        scale: Tensor | None = None,
        stacked: bool = False,
    ) -> None:
        self.parameters, self._tasks, self._keep = parameters, tasks, keep or several_ranks()
        self._scale, self._leading = scale, 1 + stacked
        self._norms: list[tuple[Sequence[int], Tensor]] = []
        self._rows: list[tuple[Sequence[int], list[Tensor]]] = []

    def add(self, tasks: Sequence[int], rows: Sequence[Tensor | None]) -> None:
        """Take in the gradients of n tasks.

        Args:
            tasks: their numbers.
            rows: for each parameter a tensor of shape (n, \\*shape); ``None`` where nothing depends on it.
        """
        plain = rows if self._scale is None else [None if row is None else _wide(row) / self._scale for row in rows]
        if self._keep:
            pairs = zip(plain, self.parameters, strict=True)
            filled = [p.new_zeros(len(tasks), *p.shape) if row is None else row for row, p in pairs]
            self._rows.append((tasks, filled))
        else:
            self._norms.append((tasks, norms_of([row for row in plain if row is not None], self._leading)))

    def add_one(self, task: int, row: Sequence[Tensor | None], tasks: Sequence[str]) -> None:
        """Take in the gradient of one task, from autograd.

        Raises:
            ValueError: it does not depend on W.
        """
        if all(gradient is None for gradient in row):
            raise independent(tasks[task])
        self.add([task], [None if gradient is None else gradient.unsqueeze(0) for gradient in row])

    def norms(self) -> Tensor:
        """The 2-norm of each task's gradient (of its mean over the ranks) over all parameters of W, shape (T,)."""
        if self._keep:
            return norms_of(mean_over_ranks(*self.rows()), self._leading)
        return self._in_order(self._norms)

    def rows(self) -> list[Tensor]:
        """For each parameter all T gradients, shape (T, \\*shape), where they were kept."""
        columns = range(len(self.parameters))
        return [self._in_order([(tasks, rows[k]) for tasks, rows in self._rows]) for k in columns]

    def _in_order(self, pieces: Sequence[tuple[Sequence[int], Tensor]]) -> Tensor:
        tasks, piece = pieces[0]
        if list(tasks) == list(range(self._tasks)):
            return piece
        by_task = {task: one for tasks, piece in pieces for task, one in zip(tasks, piece.unbind(), strict=True)}
        return torch.stack([by_task[task] for task in range(self._tasks)])


def task_gradients(losses: Sequence[Tensor], tasks: Sequence[str], factors: Tensor, found: TaskGradients) -> None:
    """``factors_i grad_W L_i``, task by task through the graph, which stays.

    Args:
        losses: for each task its own scalar with graph (not a slice of a stack, whose gradient would run through
            every head).
        tasks: their names.
        factors: shape (T,), or (T, K) for losses of shape (K,).
        found: takes them in.

    Raises:
        ValueError: a loss does not depend on W.
    """
    with unnoticed_by_ddp(losses):
        for i, (loss, factor) in enumerate(zip(losses, factors.unbind(), strict=True)):
            factor = factor.to(loss).reshape(loss.shape)
            row = torch.autograd.grad(loss, found.parameters, factor, retain_graph=True, allow_unused=True)
            found.add_one(i, row, tasks)


@contextmanager
def unnoticed_by_ddp(losses: Sequence[Tensor]) -> Iterator[None]:
    """DDP with a static graph averages all gradients when the first backward pass to reach its outputs ends. One that
    only measures is not that one."""
    seen, stack, sinks = set(), [loss.grad_fn for loss in losses] if several_ranks() else [], []
    while stack:
        node: Any = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node) is Sink:
            sinks.append(node)
        else:
            stack.extend(child for child, _ in node.next_functions)
    with static_graph_waits(sinks):
        yield


def independent(task: str) -> ValueError:
    """The error of a loss that does not depend on W."""
    return ValueError(f"Loss of task `{task}` should depend on the shared layer. Found no gradient there.")


def norms_of(gradients: Sequence[Tensor], leading: int = 1) -> Tensor:
    """The 2-norm of each task's gradient over all parameters of W: from (T, \\*shape) each to shape (T,).

    At least in single precision: half is too coarse for a norm over a whole layer.

    Args:
        gradients: for each parameter of W.
        leading: dimensions before those of the parameter: 2 for (T, K, \\*shape), which gives (T, K).
    """
    rows = [_wide(g).reshape(*g.shape[:leading], -1) for g in gradients]
    parts = [torch.linalg.vector_norm(row, dim=-1) for row in rows]
    whole: Tensor = reduce(torch.hypot, parts)
    return whole


def _wide(gradient: Tensor) -> Tensor:
    return gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient


def several_ranks() -> bool:
    """Whether there is a process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_ranks(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each tensor averaged over the ranks of a running process group, so that all ranks hold the same numbers."""
    if not several_ranks():
        return tensors
    averaged = []
    for tensor in tensors:
        total = tensor.to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
        dist.all_reduce(total)
        averaged.append(total / dist.get_world_size())
    return tuple(averaged)
