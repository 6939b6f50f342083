"""One backward pass that yields the gradient of the weighted sum and, on the way, each task's gradient of W.

It is the plain backward pass. Hooks on the heads' last nodes see the T parts that flow into the trunk, and from these
come the T gradients of W.

Their sum would be W's gradient, and the trunk could leave it out. We let it compute it: a hook of the user's on the
features or on W (clipping, reversal, data parallel training) must see what it sees in any other backward pass, and
Python cannot tell whether there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from balancers.cut import Cut, Edge
from balancers.shared_gradients import TaskGradients, independent
from balancers.shared_product import Product

_AT_ONCE = 1 << 18  # bytes of gradients in one product on a CPU: larger is faster until memory counts


class OnePass:
    """The backward pass over a cut graph.

    Args:
        cut: see `balancers.cut.find_cut`.
        parameters: W.
        tasks: names of the tasks.
    """

    _found: TaskGradients

    def __init__(self, cut: Cut, parameters: Sequence[Tensor], tasks: Sequence[str]) -> None:
        self._cut, self._parameters, self._tasks = cut, list(parameters), tasks
        self._open = [0] * len(tasks)  # feeders of each task that have yet to run
        for task in cut.task.values():
            self._open[task] += 1
        self._parts: list[dict[Edge, Tensor]] = [{} for _ in tasks]
        self._left = len(tasks)
        self._waiting: dict[int, Tensor] = {}  # parts for the next product

    def run(self, L: Tensor, factors: Tensor, keep: bool, scale: Tensor | None) -> TaskGradients:
        """Fill ``.grad`` with the gradient of ``sum_i factors_i L_i``.

        Args:
            L: the losses with their graph, shape (T,).
            factors: shape (T,).
            keep, scale: see `TaskGradients`; the scale is one of the factors.

        Returns:
            The T gradients of W, ``factors_i grad L_i``.

        Raises:
            ValueError: a loss does not depend on W.
        """
        cut, self._found = self._cut, TaskGradients(self._parameters, len(self._tasks), keep, scale)
        for task, feeders in zip(self._tasks, self._open, strict=True):
            if not feeders:
                raise independent(task)
        for node, outputs in cut.feeders.items():
            node.register_hook(self._keep(cut.task[node], outputs))
        try:
            torch.autograd.backward(L, factors, retain_graph=cut.retain)
        finally:
            del self._cut  # nodes hold hooks that hold us: a circle would keep the graph until garbage is collected
        return self._found

    def _keep(self, task: int, outputs: Sequence[tuple[int, Edge]]) -> Any:
        parts = self._parts[task]

        def hook(gradients: Sequence[Tensor | None], _: object) -> None:
            for output, edge in outputs:
                part = gradients[output]
                if part is not None:
                    parts[edge] = parts[edge] + part if edge in parts else part
            self._open[task] -= 1
            if not self._open[task]:
                self._close_head(task)

        return hook

    def _close_head(self, task: int) -> None:
        """All parts of a task are there: its gradients of W."""
        parts, product = self._parts[task], self._cut.product
        if product is None:
            edges, flows = [GradientEdge(*edge) for edge in parts], list(parts.values())
            row: Sequence[Tensor | None] = ()
            if parts:
                row = torch.autograd.grad(edges, self._parameters, flows, retain_graph=True, allow_unused=True)
            if all(gradient is None for gradient in row):
                raise independent(self._tasks[task])
            self._found.add([task], [None if gradient is None else gradient.unsqueeze(0) for gradient in row])
        else:
            if not parts:
                raise independent(self._tasks[task])
            (self._waiting[task],) = parts.values()
        parts.clear()
        self._left -= 1
        if product is not None:
            self._multiply(product)
        if not self._left:
            self._cut.product = None  # holds tensors that the trunk's pass can free

    def _multiply(self, product: Product) -> None:
        """Several tasks in one product; at once what stays in the cache, and no more parts in memory than that."""
        part = next(iter(self._waiting.values()))
        limit, bytes_ = _AT_ONCE if part.device.type == "cpu" else 64 * _AT_ONCE, part.numel() * part.element_size()
        if self._left and (len(self._waiting) + 1) * bytes_ <= limit:
            return
        del part
        tasks = sorted(self._waiting)
        self._found.add(tasks, product.gradients([self._waiting.pop(task) for task in tasks]))
