"""A backward pass that also takes the T gradients of W: in one pass where the graph can be cut, else task by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from balancers.cut import Cut, NoCut, find_cut
from balancers.one_pass import OnePass
from balancers.shared_gradients import TaskGradients, task_gradients


class Path(NamedTuple):
    """How the T gradients of W are taken: ``"one pass"`` or ``"task by task"``, and why."""

    name: str
    why: str


def measured_backward(
    losses: Sequence[Tensor],
    tasks: Sequence[str],
    L: Tensor,
    factors: Tensor,
    found: TaskGradients,
    one_pass: bool = True,
) -> Path:
    """Fill ``.grad`` with the gradient of ``sum_i factors_i L_i``, and ``found`` with ``factors_i grad_W L_i``.

    Args:
        losses: for each task its own loss with graph: a scalar, or (K,) of K stacked networks.
        tasks: their names.
        L: the same in one tensor, the tasks last.
        factors: of the shape of L.
        found: takes in the T gradients of W.
        one_pass: ``False`` goes task by task even where the graph can be cut.

    Returns:
        How it was done.

    Raises:
        ValueError: a loss does not depend on W.
    """
    cut: Cut | None = None
    path = Path("task by task", "asked for by `one_pass = False`")
    if one_pass:
        try:
            cut = find_cut(losses, found.parameters)
        except NoCut as reason:
            path = Path("task by task", str(reason))
    if cut is None:
        task_gradients(losses, tasks, factors.t() if factors.dim() > 1 else factors, found)
        torch.autograd.backward(L, factors)
        return path
    path = Path("one pass", f"the heads meet in {', '.join(node.name() for node in cut.entries)}")
    OnePass(cut, found, tasks).run(L, factors)
    return path
