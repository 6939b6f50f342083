"""One backward pass that yields the gradient of the weighted sum and, on the way, each task's gradient of W.

The autograd graph is read, not changed: below its own head every task's loss runs into nodes that other tasks run
into too. Those are the *entries*; what flows into them from one task's nodes is ``w_i dL_i/d(features)``. One call of
the engine runs all heads and the trunk once; hooks on the heads' last nodes keep the T parts, and before the trunk
goes on these give the T gradients of W, whose sum is W's gradient, so that the trunk does not compute it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from balancers.shared_gradients import independent, stack_rows
from balancers.shared_product import AccumulateGrad, Product, product_at

_SPREADS = "_DDPSinkBackward"  # passes its k-th gradient to its k-th input: one node around all outputs of a DDP model

Edge = tuple[Node, int]


class NoCut(Exception):  # noqa: N818 - an answer, not an error
    """The graph cannot be cut between the tasks; the message says why."""


@dataclass
class Cut:
    """Where the tasks' gradients meet.

    Attributes:
        feeders: for each node at the end of a head, which of its inputs flow into which entry.
        task: for each feeder, the number of the one task that it belongs to.
        entries: the nodes that several tasks flow into.
        leaves: every leaf of the graph but W.
        product: the one product with W right below the only entry, if there is one.
        retain: keep the graph's buffers to the end, since an entry may run before all parts are there.
    """

    feeders: dict[Node, list[tuple[int, Edge]]]
    task: dict[Node, int]
    entries: list[Node]
    leaves: list[Tensor]
    product: Product | None
    retain: bool


@dataclass
class _Heads:
    """What the walk from the losses down to the entries has seen."""

    masks: dict[Node, int] = field(default_factory=dict)  # bit i: task i flows into the node
    parents: dict[Node, list[tuple[Node, int, int]]] = field(default_factory=dict)  # parent, its output, node's input
    leaves: dict[Node, None] = field(default_factory=dict)  # in the order seen
    entries: list[Node] = field(default_factory=list)


def find_cut(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Cut:
    """Read the graph of T losses.

    Args:
        losses: for each task its own scalar with graph.
        parameters: W.

    Raises:
        NoCut: the tasks do not part where a cut could be made.
    """
    if len(losses) == 1:
        raise NoCut("there is one task")
    heads = _walk_heads(losses)
    if any(heads.masks[loss.grad_fn] & (heads.masks[loss.grad_fn] - 1) for loss in losses if loss.grad_fn):
        raise NoCut("the losses of several tasks come out of one operation")
    readers = _walk_trunk(heads.entries)
    shared = {id(parameter) for parameter in parameters}
    if any(id(leaf.variable) in shared for leaf in heads.leaves):
        raise NoCut("a head reads the weights of the shared layer itself")
    feeders: dict[Node, list[tuple[int, Edge]]] = {}
    for entry in heads.entries:
        for parent, output, index in heads.parents[entry]:
            feeders.setdefault(parent, []).append((output, (entry, index)))
    below = [node for node in readers if type(node) is AccumulateGrad]
    leaves = [leaf.variable for leaf in dict.fromkeys([*heads.leaves, *below])]
    return Cut(
        feeders=feeders,
        task={node: heads.masks[node].bit_length() - 1 for node in feeders},
        entries=heads.entries,
        leaves=[leaf for leaf in leaves if id(leaf) not in shared],
        product=product_at(heads.entries[0], parameters, readers) if len(heads.entries) == 1 else None,
        retain=not _parts_come_first(feeders, heads.entries),
    )


def _walk_heads(losses: Sequence[Tensor]) -> _Heads:
    """Visit nodes from the newest to the oldest, so that all that flows into a node is known when it is its turn.

    Like autograd's engine this trusts that a node is newer than its inputs, and it stops where that fails.
    """
    heads, heap, ties = _Heads(), [], count()
    masks, parents, leaves = heads.masks, heads.parents, heads.leaves
    for i, loss in enumerate(losses):
        node = loss.grad_fn
        if node is None:
            raise NoCut("a loss is itself a parameter")
        if node not in masks:
            heappush(heap, (-node._sequence_nr(), next(ties), node))  # type: ignore[attr-defined]
        masks[node] = masks.get(node, 0) | 1 << i
    while heap:
        age, _, node = heappop(heap)
        mask = masks[node]
        if mask & (mask - 1):
            heads.entries.append(node)
            continue
        for output, (child, index) in enumerate(node.next_functions):
            while type(child).__name__ == _SPREADS:
                child, index = child.next_functions[index]
            if child is None:
                continue
            if type(child) is AccumulateGrad:
                leaves[child] = None
                continue
            if child in masks:
                masks[child] |= mask
                parents.setdefault(child, []).append((node, output, index))
                continue
            key = -child._sequence_nr()  # type: ignore[attr-defined]
            if key <= age:
                raise NoCut("the graph was built by several threads")
            masks[child] = mask
            parents[child] = [(node, output, index)]
            heappush(heap, (key, next(ties), child))
    return heads


def _walk_trunk(entries: Sequence[Node]) -> dict[Node, list[Node]]:
    """For each node below the entries, the nodes that flow into it."""
    stack, readers = list(entries), dict[Node, list[Node]]()
    while stack:
        node = stack.pop()
        for child, _ in node.next_functions:
            if child is None:
                continue
            if child in readers:
                readers[child].append(node)
                continue
            readers[child] = [node]
            if type(child) is not AccumulateGrad:
                stack.append(child)
    return readers


def _parts_come_first(feeders: Mapping[Node, Any], entries: Sequence[Node]) -> bool:
    """Whether the engine, which runs the newest node first, runs all heads before any entry."""
    if len(entries) == 1:
        return True  # it waits for its feeders
    if len({node._input_metadata[0].device for node in [*feeders, *entries]}) > 1:  # type: ignore[attr-defined]
        return False  # a queue a device
    newest = max(node._sequence_nr() for node in entries)  # type: ignore[attr-defined]
    return all(node._sequence_nr() > newest for node in feeders)  # type: ignore[attr-defined]


class OnePass:
    """The backward pass over a cut graph.

    Args:
        cut: see `find_cut`.
        parameters: W.
        tasks: names of the tasks.
    """

    def __init__(self, cut: Cut, parameters: Sequence[Tensor], tasks: Sequence[str]) -> None:
        self._cut, self._parameters, self._tasks = cut, list(parameters), tasks
        self._parts: list[dict[Edge, Tensor]] = [{} for _ in tasks]
        self._open = len(cut.feeders)
        self._rows: list[Tensor] = []

    def run(self, L: Tensor, factors: Tensor) -> list[Tensor]:
        """Fill ``.grad`` of every parameter, W's too, with the gradient of ``sum_i factors_i L_i``.

        Args:
            L: the losses with their graph, shape (T,).
            factors: shape (T,).

        Returns:
            For each parameter of W the T gradients ``factors_i grad L_i``, shape (T, \\*shape).

        """
        cut = self._cut
        for node, outputs in cut.feeders.items():
            node.register_hook(self._keep(cut.task[node], outputs))
        edges = {edge: None for outputs in cut.feeders.values() for _, edge in outputs}
        # An entry among the inputs: then what flows into it is computed even if W is all there is below.
        inputs = [*cut.leaves, *(GradientEdge(*edge) for edge in edges)]
        torch.autograd.backward(L, factors, retain_graph=cut.retain, inputs=inputs)
        return self._rows

    def _keep(self, task: int, outputs: Sequence[tuple[int, Edge]]) -> Any:
        parts = self._parts[task]

        def hook(gradients: Sequence[Tensor | None], _: object) -> None:
            for output, edge in outputs:
                part = gradients[output]
                if part is not None:
                    parts[edge] = parts[edge] + part if edge in parts else part
            self._open -= 1
            if not self._open:
                self._finish_shared_layer()

        return hook

    def _finish_shared_layer(self) -> None:
        """All parts are there and the trunk has not run: W's gradients, which its own pass then leaves out."""
        parts, product = self._parts, self._cut.product
        self._parts = []
        if product is not None and all(parts):
            self._rows = product.gradients(torch.stack([next(iter(part.values())) for part in parts]))
        else:
            self._rows = stack_rows([self._row(i, part) for i, part in enumerate(parts)], self._parameters)
        torch.autograd.backward(self._parameters, [row.sum(0) for row in self._rows])

    def _row(self, task: int, parts: Mapping[Edge, Tensor]) -> Sequence[Tensor | None]:
        """One task's gradient of each parameter of W, from what flows into the entries."""
        edges, flows = [GradientEdge(*edge) for edge in parts], list(parts.values())
        row: Sequence[Tensor | None] = []
        if parts:
            row = torch.autograd.grad(edges, self._parameters, flows, retain_graph=True, allow_unused=True)
        if all(gradient is None for gradient in row):
            raise independent(self._tasks[task])
        return row
