"""The gradient of each task's loss on the shared layer, and its norm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from balancers.losses import Losses, StepLosses, read_losses
from balancers.ranks import several_ranks
from balancers.torch_private import Sink, foreach_norm, static_graph_waits
from balancers.window import Sums


class TaskGradients:
    """Collects the tasks' gradients of W. It keeps their norms; it keeps the gradients themselves, T times the size
    of W, only if the norm is of a mean over ranks or over backward passes.

    Args:
        parameters: W.
        step: the losses; absent tasks have no gradient.
        keep: keep the gradients for `rows`.
        scale: a factor of the gradients, for example of a GradScaler. Norms and rows are without it, because squares
            of scaled gradients may overflow.
        stacked: whether the parameters are those of K networks, (K, \\*shape) each; norms then are (T, K).
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        step: StepLosses,
        keep: bool = False,
        scale: Tensor | None = None,
        stacked: bool = False,
    ) -> None:
        self.parameters, self.step = parameters, step
        self._keep, self._scale, self._leading = keep or several_ranks(), scale, 1 + stacked
        self._norms: list[tuple[Sequence[int], Tensor]] = []  # tasks, and their norms, (n,) or (n, K)
        self._rows: dict[int, list[Tensor]] = {}

    def add(self, tasks: Sequence[int], rows: Sequence[Tensor]) -> None:
        """Add the gradients of some tasks.

        Args:
            tasks: indices of n tasks.
            rows: for each parameter a tensor of shape (n, \\*shape).
        """
        plain = [self._unscaled(row) for row in rows]
        if not self._keep:
            self._norms.append((tasks, norms_of(plain, self._leading)))
            return
        for k, task in enumerate(tasks):
            self._rows[task] = [row[k] for row in plain]

    def add_one(self, task: int, row: Sequence[Tensor | None]) -> None:
        """Add the gradient of one task, from autograd.

        Raises:
            ValueError: it does not depend on W, and its loss is neither 0 nor NaN.
        """
        if all(gradient is None for gradient in row):
            self.missed(task)
        elif self._keep:
            filled = [torch.zeros_like(p) if g is None else g for g, p in zip(row, self.parameters, strict=True)]
            self._rows[task] = [self._unscaled(g.to_dense() if g.is_sparse else g) for g in filled]
        else:
            dense = [g.coalesce().values() if g.is_sparse else g for g in row if g is not None]
            norm = norms_of([self._unscaled(g) for g in dense], self._leading - 1)
            self._norms.append(([task], norm.view(1, *norm.shape)))

    def _unscaled(self, gradient: Tensor) -> Tensor:
        return gradient if self._scale is None else _wide(gradient) / self._scale

    def missed(self, task: int) -> None:
        """Note that a task's loss does not depend on W.

        Raises:
            ValueError: its loss is neither 0 nor NaN.
        """
        if not self.step.excuses(task):
            raise independent(self.step.tasks[task], self.step.graphs[self.step.numbers.index(task)])

    def norms(self) -> Tensor:
        """Return the 2-norm over W of each task's gradient, or of its mean over the ranks, shape (T,).

        It is 0 where a task is absent.
        """
        if self._keep:
            return norms_of(self.sums().means()[1], self._leading)
        if not self._norms:
            return torch.zeros_like(self.step.values.t() if self._leading > 1 else self.step.values)
        found = sorted(self._norms, key=lambda piece: piece[0][0])
        whole = torch.cat([norms for _, norms in found]) if len(found) > 1 else found[0][1]
        tasks, places = [task for piece, _ in found for task in piece], range(len(self.step.tasks))
        if tasks == list(places):
            return whole
        by_task, nothing = dict(zip(tasks, whole.unbind(), strict=True)), torch.zeros_like(whole[0])
        return torch.stack([by_task.get(task, nothing) for task in places])

    def sums(self) -> Sums:
        """Return the losses, and the gradients if they were kept."""
        values = self.step.values
        return Sums.of(values.t() if values.dim() > 1 else values, self.rows())

    def rows(self) -> list[Tensor]:
        """Return for each parameter all T gradients, shape (T, \\*shape), if they were kept."""
        nothing = [torch.zeros_like(p) for p in self.parameters] if len(self._rows) < len(self.step.tasks) else []
        by_task = [self._rows.get(task, nothing) for task in range(len(self.step.tasks))]
        return [torch.stack([row[k].to(by_task[0][k].dtype) for row in by_task]) for k in range(len(self.parameters))]


def task_gradients(factors: Tensor, found: TaskGradients) -> None:
    """Compute ``factors_i grad_W L_i`` task by task through the graph, which is kept.

    Args:
        factors: for each task that the step starts from, shape (n,), or (K, n) for losses of shape (K,).
        found: has the losses, and receives the gradients.

    Raises:
        ValueError: a loss does not depend on W.
    """
    step = found.step
    with unnoticed_by_ddp(step.graphs):
        for number, loss, factor in zip(step.numbers, step.graphs, factors.unbind(-1), strict=True):
            factor = factor.to(loss).reshape(loss.shape)
            row = torch.autograd.grad(loss, found.parameters, factor, retain_graph=True, allow_unused=True)
            found.add_one(number, row)


def gradient_norms(losses: Losses, tasks: Sequence[str], parameters: Sequence[Tensor]) -> Tensor:
    """Compute ``||grad_W L_i||`` of each task, shape (T,); 0 where a task is absent. The graph is kept.

    Args:
        losses: for each task a scalar with its graph.
        tasks: their names.
        parameters: W.

    Raises:
        ValueError: as for a balancer; a loss does not depend on W.
    """
    step = read_losses(losses, tasks, torch.ones(len(tasks)), set())
    found = TaskGradients(parameters, step)
    task_gradients(step.factors(torch.ones_like(step.values)), found)
    return found.norms()


@contextmanager
def unnoticed_by_ddp(losses: Sequence[Tensor]) -> Iterator[None]:
    """Hide backward passes that only measure from DDP with a static graph, which averages all gradients at the end
    of the first backward pass that reaches its outputs."""
    sinks = [node for node in _nodes_below(losses) if type(node) is Sink] if several_ranks() else []
    with static_graph_waits(sinks):
        yield


def _nodes_below(losses: Sequence[Tensor]) -> Iterator[Any]:
    """Each node of the graphs of some losses, down to those of DDP models."""
    seen = set()
    stack: list[Any] = [loss.grad_fn for loss in losses]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if type(node) is not Sink:
            stack.extend(child for child, _ in node.next_functions)


def independent(task: str, loss: Tensor) -> ValueError:
    """Return the error for a loss that does not depend on W, with the cause if the graph shows it."""
    rule = f"losses[{task!r}]: expected a loss that depends on the shared layer, got no gradient there; "
    if hides_layers(loss):
        return ValueError(
            f"{rule}gradient checkpointing with `use_reentrant=True` keeps layers out of the graph: set "
            "`use_reentrant=False` where it is around W"
        )
    return ValueError(
        f"{rule}W is the last layer that all tasks use; pass the module, not its parameters, if these are replaced"
    )


def hides_layers(loss: Tensor) -> bool:
    """Return whether a graph has a gradient checkpoint with `use_reentrant=True`, whose layers are not in it."""
    return any(type(node).__name__ == "CheckpointFunctionBackward" for node in _nodes_below([loss]))


def norms_of(gradients: Sequence[Tensor], leading: int = 1) -> Tensor:
    """Return the 2-norm of each task's gradient over all parameters of W: from (T, \\*shape) each to shape (T,).

    Computed in single precision at least: half precision is too coarse for a norm over a whole layer.

    Args:
        gradients: for each parameter of W.
        leading: dimensions before those of the parameter: 0 for one task's gradient, which gives a scalar, and 2 for
            (T, K, \\*shape), which gives (T, K).
    """
    wide = [_wide(gradient) for gradient in gradients]
    parts = [_norm(gradient, leading) for gradient in wide] if leading else foreach_norm(wide)
    whole: Tensor = (
        torch.linalg.vector_norm(torch.stack(parts), dim=0) if len(parts) > 2 else reduce(torch.hypot, parts)
    )
    return whole


def _norm(gradient: Tensor, leading: int) -> Tensor:
    own = tuple(range(leading, gradient.dim()))
    found: Tensor = torch.linalg.vector_norm(gradient, dim=own) if own else gradient.abs()
    return found


def _wide(gradient: Tensor) -> Tensor:
    return gradient.float() if gradient.dtype in (torch.float16, torch.bfloat16) else gradient
