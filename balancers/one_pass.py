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

from balancers.boxes import confined
from balancers.cut import Cut, Feeder
from balancers.joined import Edge
from balancers.shared_gradients import TaskGradients
from balancers.shared_product import Product

_AT_ONCE = 1 << 19  # bytes of gradients in one product on a CPU: larger is faster until memory counts


class OnePass:
    """The backward pass over a cut graph.

    Args:
        cut: see `balancers.cut.find_cut`.
        found: takes in the gradients of W.
        numbers: of the tasks whose graph was cut.
    """

    def __init__(self, cut: Cut, found: TaskGradients, numbers: Sequence[int]) -> None:
        self._cut, self._found, self._numbers = cut, found, numbers
        self._open = [0] * len(numbers)  # feeders of each task that have yet to run
        for feeder in cut.feeders:
            for task in feeder.tasks:
                self._open[task] += 1
        self._heads = sum(map(bool, self._open))  # tasks with such feeders
        self._parts: list[dict[Edge, Tensor]] = [{} for _ in numbers]
        self._waiting: dict[int, Tensor] = {}  # parts for the next product
        self._most: int | None = None  # so many at once, when the first has shown its size

    def run(self, L: Tensor, factors: Tensor) -> None:
        """Fill ``.grad`` with the gradient of ``sum_i factors_i L_i``, and ``found`` with ``factors_i grad_W L_i``.

        Args:
            L: the losses with their graph, the tasks last.
            factors: of the same shape.

        Raises:
            ValueError: a loss does not depend on W.
        """
        for task, feeders in enumerate(self._open):
            if not feeders and task not in self._cut.silent:
                self._found.missed(self._numbers[task])
        for feeder in self._cut.feeders:
            feeder.node.register_hook(self._keep(feeder))
        try:
            torch.autograd.backward(L, factors, retain_graph=self._cut.retain)
        finally:
            # Nodes hold hooks that hold us: a circle would keep the graph until garbage is collected.
            del self._cut, self._found

    def _keep(self, feeder: Feeder) -> Any:
        tasks, flows = feeder.tasks, feeder.flows

        def hook(gradients: Sequence[Tensor | None], _: object) -> None:
            for task in tasks:
                parts = self._parts[task]
                for k, edge, shares in flows:
                    part = gradients[k]
                    if part is None or task not in shares:
                        continue
                    if len(shares) > 1:
                        part = confined(part, shares[task])
                    parts[edge] = parts[edge] + part if edge in parts else part
                self._open[task] -= 1
                if not self._open[task]:
                    self._heads -= 1
                    self._close_head(task)

        return hook

    def _close_head(self, task: int) -> None:
        """All parts of a task are there: its gradients of W."""
        parts, product = self._parts[task], self._cut.product
        if not parts:
            self._found.missed(self._numbers[task])
        elif product is None:
            edges, flows = [GradientEdge(*edge) for edge in parts], list(parts.values())
            row = torch.autograd.grad(edges, self._found.parameters, flows, retain_graph=True, allow_unused=True)
            self._found.add_one(self._numbers[task], row)
        else:
            (self._waiting[task],) = parts.values()
        parts.clear()
        if product is not None:
            self._multiply(product)

    def _multiply(self, product: Product) -> None:
        """Several tasks in one product; at once what stays in the cache, and no more parts in memory than that."""
        last, waiting = not self._heads, len(self._waiting)
        if not waiting:
            return
        if self._most is None:
            self._most = _tasks_at_once(next(iter(self._waiting.values())), product)
        if not last and waiting < self._most:
            return
        tasks = sorted(self._waiting)
        numbers = [self._numbers[task] for task in tasks]
        self._found.add(numbers, product.gradients([self._waiting.pop(task) for task in tasks]))
        if last:
            self._cut.product = None  # holds tensors that the trunk's pass can free


def _tasks_at_once(part: Tensor, product: Product) -> int:
    """Return the number of tasks that one product takes, of parts like this one."""
    limit = _AT_ONCE if part.device.type == "cpu" else 32 * _AT_ONCE  # the second is a guess, not measured
    size = max(part.nbytes, product.most * part.element_size()) if product.most else part.nbytes
    return max(1, limit // max(1, size))
