"""One backward pass that yields the gradient of the weighted sum and, on the way, each task's gradient of W.

The autograd graph is read, not changed: below its own head every task's loss runs into nodes that other tasks run
into too. Those are the *entries*; what flows into them from one task's nodes is ``w_i dL_i/d(features)``. One call of
the engine runs all heads and the trunk once; hooks on the heads' last nodes keep the T parts, and before the trunk
goes on these give the T gradients of W, whose sum is W's gradient, so that the trunk does not compute it again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.utils.checkpoint import CheckpointFunction

from balancers.shared_gradients import Sink, TaskGradients, independent
from balancers.shared_product import AccumulateGrad, Product, product_at

_Reentrant: Any = CheckpointFunction._backward_cls  # runs backward by itself, which `inputs` does not allow

_AT_ONCE = 1 << 19  # bytes of gradients in one product on a CPU: about half of a second-level cache

Edge = tuple[Any, int]  # of a node (or None), and which of its inputs


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
class _Graph:
    """What lies below the losses.

    Attributes:
        task: for each node the first task that reached it: its only one, unless the node is of the trunk.
        edges: for each node its inputs.
        meets: nodes that a second task reached.
    """

    task: dict[Any, int] = field(default_factory=dict)
    edges: dict[Node, Sequence[Edge]] = field(default_factory=dict)
    meets: dict[Node, None] = field(default_factory=dict)


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
    graph = _walk(losses)
    readers = _below(graph)
    if any(loss.grad_fn in readers for loss in losses):
        raise NoCut("the losses of several tasks come out of one operation")
    leaves = {node: node.variable for node in graph.task if type(node) is AccumulateGrad}
    own = {id(parameter) for parameter in parameters}
    own_nodes = {node for node, leaf in leaves.items() if id(leaf) in own}
    kinds = {type(node) for node in graph.task}
    if _Reentrant in kinds:
        raise NoCut("a part is checkpointed with use_reentrant=True")
    if any(kind.__name__ == "CompiledFunctionBackward" and _reads(graph, kind, own_nodes) for kind in kinds):
        raise NoCut("the shared layer is inside a compiled module, whose backward runs whole")
    feeders: dict[Node, list[tuple[int, Edge]]] = {}
    entries: dict[Node, None] = {}
    for node, edges in graph.edges.items():
        if node in readers:
            continue
        for output, edge in enumerate(edges):
            child = edge[0]
            if child in own_nodes:
                raise NoCut("a head reads the weights of the shared layer itself")
            if child in readers and child not in leaves:
                feeders.setdefault(node, []).append((output, edge))
                entries[child] = None
    return Cut(
        feeders=feeders,
        task={node: graph.task[node] for node in feeders},
        entries=list(entries),
        leaves=[leaf for leaf in leaves.values() if id(leaf) not in own],
        product=product_at(next(iter(entries)), parameters, readers) if len(entries) == 1 else None,
        retain=not _parts_come_first(feeders, list(entries)),
    )


def _walk(losses: Sequence[Tensor]) -> _Graph:
    """Visit every node once and note who reached it first, and whether another task reached it too."""
    graph = _Graph()
    task, all_edges, meets = graph.task, graph.edges, graph.meets
    for i, loss in enumerate(losses):
        root: Any = loss.grad_fn
        if root is None:
            raise NoCut("a loss is itself a parameter")
        if root in task:
            meets[root] = None
            continue
        task[root] = i
        stack = [root]
        while stack:
            node = stack.pop()
            edges: Sequence[Edge] = node.next_functions
            all_edges[node] = edges
            for k, (child, index) in enumerate(edges):
                if type(child) is Sink:
                    child, index = child.next_functions[index]
                    edges = all_edges[node] = (*edges[:k], (child, index), *edges[k + 1 :])
                if child is None:
                    continue
                first = task.get(child)
                if first is None:
                    task[child] = i
                    if type(child) is not AccumulateGrad:
                        stack.append(child)
                elif first != i:
                    meets[child] = None
    return graph


def _below(graph: _Graph) -> dict[Node, int]:
    """The trunk, all that several tasks reach, leaves apart that only heads read: for each node its readers in it."""
    stack = [node for node in graph.meets if type(node) is not AccumulateGrad]
    readers = dict.fromkeys(stack, 0)
    while stack:
        for child, _ in graph.edges[stack.pop()]:
            if child is None:
                continue
            if child in readers:
                readers[child] += 1
                continue
            readers[child] = 1
            if type(child) is not AccumulateGrad:
                stack.append(child)
    return readers


def _reads(graph: _Graph, kind: type, leaves: Collection[Node]) -> bool:
    """Whether a node of this kind has one of the leaves among its inputs."""
    return any(child in leaves for node, edges in graph.edges.items() if type(node) is kind for child, _ in edges)


def _parts_come_first(feeders: Mapping[Node, Any], entries: Sequence[Node]) -> bool:
    """Whether the engine, which runs the newest node first, runs all heads before any entry."""
    if len(entries) == 1:
        return True  # it waits for its feeders
    if len({node._input_metadata[0].device for node in [*feeders, *entries]}) > 1:
        return False  # a queue a device
    newest = max(node._sequence_nr() for node in entries)
    return all(node._sequence_nr() > newest for node in feeders)


class OnePass:
    """The backward pass over a cut graph.

    Args:
        cut: see `find_cut`.
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
        """Fill ``.grad`` of every parameter, W's too, with the gradient of ``sum_i factors_i L_i``.

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
        edges = {edge: None for outputs in cut.feeders.values() for _, edge in outputs}
        # An entry among the inputs: then what flows into it is computed even if W is all there is below.
        inputs: Any = [*cut.leaves, *(GradientEdge(*edge) for edge in edges)]
        try:
            torch.autograd.backward(L, factors, retain_graph=cut.retain, inputs=inputs)
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
        """All parts of a task are there: its gradients of W. After the last head, W's own."""
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
            torch.autograd.backward(self._parameters, self._found.sum())

    def _multiply(self, product: Product) -> None:
        """Several tasks in one product; at once what stays in the cache, and no more parts in memory than that."""
        part = next(iter(self._waiting.values()))
        limit = _AT_ONCE if part.device.type == "cpu" else 64 * _AT_ONCE
        if self._left and (len(self._waiting) + 1) * part.numel() * part.element_size() <= limit:
            return
        tasks = sorted(self._waiting)
        self._found.add(tasks, product.gradients([self._waiting[task] for task in tasks]))
        self._waiting.clear()
