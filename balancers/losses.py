"""The losses of one step, with tasks that may be absent from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from balancers.ranks import several_ranks
from balancers.weights import fail

Losses = Mapping[str, Tensor | float | None]
"""For each task a scalar loss with its graph. A task is absent from a step if it is missing, ``None``, 0 or NaN."""


def on_host(values: Tensor) -> bool:
    """Return whether a tensor can be read without waiting for a device."""
    return values.device.type == "cpu"


def host_numbers(values: Tensor) -> list[float] | None:
    """Return the numbers of a vector if they can be read without waiting; ``None`` also for other shapes."""
    if values.dim() != 1 or not on_host(values):
        return None
    found: list[float] = values.tolist()
    return found


def known(values: Tensor) -> list[float] | None:
    """Return a tensor's numbers if they can be read without waiting, in a single process; otherwise masks are used.

    With several ranks, all have to take the same step, and no rank knows the losses of the others.
    """
    return None if several_ranks() else host_numbers(values if values.dim() == 1 else values.flatten())


@dataclass
class StepLosses:
    """The losses of one step.

    Attributes:
        tasks: T names.
        numbers: indices of the n tasks from which the backward pass starts.
        graphs: their losses, separately: scalars, or shape (K,) for K stacked networks.
        L: the same in one tensor, (n,) or (K, n).
        values: the losses of all T tasks without graph, (T,) or (K, T); NaN where a task is absent.
        given: the tasks whose losses were given with a graph, whatever their value.
        clean: whether no number of ``L`` has to be masked: none is NaN, or all are.
        trusted: tasks whose losses do not depend on W and were once found to be 0 or NaN; kept by the balancer.
    """

    tasks: Sequence[str]
    numbers: list[int]
    graphs: list[Tensor]
    L: Tensor
    values: Tensor
    given: list[int]
    clean: bool
    trusted: set[str] = field(default_factory=set)

    @property
    def missing(self) -> list[int]:
        """The tasks whose losses were not given with a graph."""
        if len(self.given) == len(self.tasks):
            return []
        return [i for i in range(len(self.tasks)) if i not in self.given]

    def _chosen(self, w: Tensor) -> Tensor:
        if len(self.numbers) == len(self.tasks):
            return w
        return torch.stack([w[..., i] for i in self.numbers], -1) if self.numbers else w[..., :0]

    def factors(self, w: Tensor) -> Tensor:
        """Return the weights of the n tasks, (..., n); 0 where the loss is NaN."""
        return self._chosen(w) if self.clean else torch.where(self.L.detach().isnan(), 0, self._chosen(w))

    def weighted(self, w: Tensor, L: Tensor) -> Tensor:
        """Return ``sum_i w_i L_i`` over the n tasks, a scalar; NaN only if all losses are.

        Args:
            w: shape (T,).
            L: `L`, with its graph or without.
        """
        chosen = self._chosen(w)
        if self.clean:
            return (chosen * L).sum()
        return torch.where(L.detach().isnan().all(), torch.nan, (chosen * L).nansum())

    def backward(self, factors: Tensor) -> None:
        """Fill ``.grad`` with the gradient of ``sum_i factors_i L_i``."""
        if self.graphs:
            torch.autograd.backward(self.L, factors)

    def excuses(self, number: int) -> bool:
        """Return whether a task's loss need not depend on W in this step, because it is 0 or NaN.

        Waits for the device, once per run for each task.
        """
        task = self.tasks[number]
        value = self.values[..., number]
        if known(value) is None and task in self.trusted:
            return True
        if not bool(((value == 0) | value.isnan()).all()):
            return False
        self.trusted.add(task)
        return True


def read_losses(losses: Losses, tasks: Sequence[str], like: Tensor, trusted: set[str]) -> StepLosses:
    """Put losses in the order of the tasks, and leave absent ones out.

    Args:
        losses: as given by the user.
        tasks: T names.
        like: w, whose device and dtype an empty step takes.
        trusted: see `StepLosses`.

    Raises:
        ValueError: an unknown task, a loss that is not a scalar, one without graph that is not 0 or NaN while others
            have a graph.
    """
    unknown = [task for task in losses if task not in tasks]
    if unknown:
        fail("losses", f"losses of the tasks {list(tasks)}", f"unknown {unknown}")
    graphs, given = [], []
    for number, task in enumerate(tasks):
        loss = losses.get(task)
        if loss is None:
            continue
        _check_scalar(task, loss)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            _check_without_graph(task, loss, trusted)
            continue
        graphs.append(loss.reshape(()) if loss.dim() else loss)
        given.append(number)
    return arrange(graphs, given, tasks, like, trusted)


def arrange(
    graphs: list[Tensor], given: list[int], tasks: Sequence[str], like: Tensor, trusted: set[str]
) -> StepLosses:
    """Build `StepLosses` from the losses with graph of some tasks: scalars, or shape (K,)."""
    if not graphs:
        values = torch.full_like(like, torch.nan)
        return StepLosses(tasks, [], [], values[..., :0], values, [], True, trusted)
    L = _stacked(graphs)
    values = L.detach()
    found = known(values)
    if len(given) < len(tasks):
        places, nothing = dict(zip(given, values.unbind(-1), strict=True)), values.new_full(L.shape[:-1], torch.nan)
        values = torch.stack([places.get(i, nothing) for i in range(len(tasks))], -1)
    if found is None:
        return StepLosses(tasks, given, graphs, L, values, given, False, trusted)
    clean = not any(map(math.isnan, found)) or all(map(math.isnan, found))
    numbers = given
    if not clean:  # a graph that nothing is sent through cannot make NaN of 0
        columns = L.detach().isnan().reshape(-1, len(given)).all(0).tolist()
        kept = [k for k, nan in enumerate(columns) if not nan]
        numbers, graphs = [given[k] for k in kept], [graphs[k] for k in kept]
        L = _stacked(graphs)
        clean = not bool(L.detach().isnan().any())
    return StepLosses(tasks, numbers, graphs, L, values, given, clean, trusted)


def _stacked(graphs: Sequence[Tensor]) -> Tensor:
    L = torch.stack(list(graphs), -1)
    return L.float() if L.dtype in (torch.float16, torch.bfloat16) else L  # ratios of losses need more than half


def evaluated(losses: Losses, tasks: Sequence[str], w: Tensor) -> Tensor | None:
    """Return ``sum_i w_i L_i`` over the tasks that have a loss, for losses that are not trained on.

    Returns:
        ``None`` for an empty step of training: autograd records, and every loss is 0, NaN or absent.
    """
    given = [(i, losses[task]) for i, task in enumerate(tasks) if losses.get(task) is not None]
    for i, loss in given:
        _check_scalar(tasks[i], loss)
    tensors = [(i, loss) for i, loss in given if isinstance(loss, Tensor)]
    like = tensors[0][1].detach() if tensors else w
    found = {i: torch.as_tensor(loss).detach().to(like).reshape(()) for i, loss in given}
    if not found:
        return None if torch.is_grad_enabled() else w.new_zeros(())
    values = torch.stack(list(found.values()))
    empty = (values == 0) | values.isnan()
    if torch.is_grad_enabled() and bool(empty.all()):
        return None
    weights = torch.stack([w[i] for i in found]).to(values.device)
    total = (weights * values).nansum()
    return torch.where(values.isnan().all(), torch.nan, total)


def has_graph(losses: Losses) -> bool:
    """Return whether autograd records and some loss has a graph: a step of training, unless all tasks are absent.

    Raises:
        ValueError: the losses are no mapping.
    """
    if not isinstance(losses, Mapping):
        fail("losses", "a mapping from task to loss", type(losses).__name__)
    if not torch.is_grad_enabled():
        return False
    return any(isinstance(loss, Tensor) and loss.requires_grad for loss in losses.values())


def _check_scalar(task: str, loss: Any) -> None:
    if (isinstance(loss, Tensor) and loss.numel() == 1) or isinstance(loss, int | float):
        return
    found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
    fail(f"losses[{task!r}]", "a scalar tensor", f"a {found}" if isinstance(found, str) else f"the shape {found}")


def _check_without_graph(task: str, loss: Tensor | float, trusted: set[str]) -> None:
    """Refuse a loss without graph that is neither 0 nor NaN; on a device each task is checked once."""
    if isinstance(loss, Tensor) and not on_host(loss) and task in trusted:
        return
    value = float(loss)
    if value != 0 and not math.isnan(value):
        fail(f"losses[{task!r}]", "a loss with a graph", "requires_grad = False")
    trusted.add(task)
