"""Where the autograd graph of T losses can be cut: it is read, not changed.

Below its own head every task's loss runs into nodes that other tasks run into too, the trunk. The trunk's nodes that
heads flow into are the *entries*; what flows into them from one task's nodes is ``w_i dL_i/d(features)``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from balancers.shared_product import Product, product_at
from balancers.torch_private import AccumulateGrad, Sink, device_of, sequence_number

Edge = tuple[Any, int]  # of a node (or None), and which of its inputs


class NoCut(Exception):  # noqa: N818 - an answer, not an error
    """The graph cannot be cut between the tasks; the message says why."""


@dataclass
class Feeder:
    """A node at the end of a head.

    Attributes:
        node: the node.
        task: the number of the one task that it belongs to.
        flows: which of its inputs flows into which entry.
    """

    node: Node
    task: int
    flows: list[tuple[int, Edge]]


@dataclass
class Cut:
    """Where the tasks' gradients meet.

    Attributes:
        feeders: the nodes at the ends of the heads.
        entries: the nodes that several tasks flow into.
        product: the one product with W right below the only entry, if there is one.
        retain: keep the graph's buffers to the end, since an entry may run before all parts are there.
    """

    feeders: list[Feeder]
    entries: list[Node]
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
    if len(losses) < 2:
        raise NoCut("there is one task")
    graph = _walk(losses)
    readers = _below(graph)
    if any(loss.grad_fn in readers for loss in losses):
        raise NoCut("the losses of several tasks come out of one operation")
    own = {id(parameter) for parameter in parameters}
    compiled = {kind for kind in set(map(type, graph.edges)) if kind.__name__ == "CompiledFunctionBackward"}
    if compiled and _reads(graph, compiled, own):  # one kind a compilation
        raise NoCut("the shared layer is inside a compiled module, whose backward runs whole")
    feeders: list[Feeder] = []
    entries: dict[Node, None] = {}
    for node, edges in graph.edges.items():
        if node in readers:
            continue
        flows = []
        for k, edge in enumerate(edges):
            child = edge[0]
            if type(child) is AccumulateGrad:
                if id(child.variable) in own:
                    raise NoCut("a head reads the weights of the shared layer itself")
            elif child in readers:
                flows.append((k, edge))
                entries[child] = None
        if flows:
            feeders.append(Feeder(node, graph.task[node], flows))
    return Cut(
        feeders=feeders,
        entries=list(entries),
        product=product_at(next(iter(entries)), parameters, readers) if len(entries) == 1 else None,
        retain=not _parts_come_first([feeder.node for feeder in feeders], list(entries)),
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


def _reads(graph: _Graph, kinds: Collection[type], own: Collection[int]) -> bool:
    """Whether a node of one of these kinds reads one of these leaves."""
    children = (child for node, edges in graph.edges.items() if type(node) in kinds for child, _ in edges)
    return any(type(child) is AccumulateGrad and id(child.variable) in own for child in children)


def _parts_come_first(feeders: Sequence[Node], entries: Sequence[Node]) -> bool:
    """Whether the engine, which runs the newest node first, runs all heads before any entry."""
    if len(entries) == 1:
        return True  # it waits for its feeders
    if len({device_of(node) for node in [*feeders, *entries]}) > 1:
        return False  # a queue a device
    newest = max(sequence_number(node) for node in entries)
    return all(sequence_number(node) > newest for node in feeders)


def leaves_of(losses: Sequence[Tensor]) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The leaves that several tasks reach, and for each task those that it alone reaches.

    Raises:
        NoCut: a loss is itself a parameter.
    """
    graph = _walk(losses)
    shared, together = _below(graph), list[Tensor]()
    own: list[list[Tensor]] = [[] for _ in losses]
    for node, task in graph.task.items():
        if type(node) is AccumulateGrad:
            (together if node in shared or node in graph.meets else own[task]).append(node.variable)
    return together, own
