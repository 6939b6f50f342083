"""The place where the autograd graph of T losses can be cut. The graph is read, not changed.

Below its own head every task's loss runs into nodes that other tasks run into too, the trunk. The trunk's nodes that
heads flow into are the *entries*; what flows into them from one task's nodes is ``w_i dL_i/d(features)``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from balancers.box_rules import PICKING
from balancers.boxes import ALL, Shares
from balancers.joined import Edge, follow
from balancers.shared_product import Product, product_at
from balancers.torch_private import AccumulateGrad, Sink, device_of, sequence_number


class NoCut(Exception):  # noqa: N818 - an answer, not an error
    """The graph cannot be cut between the tasks; the message says why."""


@dataclass
class Feeder:
    """A node at the end of a head, or of what joins the outputs of heads.

    Attributes:
        node: the node.
        tasks: the numbers of the tasks whose gradients it sends on.
        flows: which of its inputs flows into which entry, and of which tasks, with their parts of it if there are
            several.
    """

    node: Node
    tasks: list[int]
    flows: list[tuple[int, Edge, Shares]]


@dataclass
class Cut:
    """The place where the tasks' gradients meet.

    Attributes:
        feeders: the nodes at the ends of the heads.
        entries: the nodes that several tasks flow into.
        product: the one product with W right below the only entry, if there is one.
        retain: keep the graph's buffers to the end, since an entry may run before all parts are there.
        mixing: entries of whose output some task needs a part only.
        silent: tasks that would flow into the trunk, but for the gradient being 0 there.
    """

    feeders: list[Feeder]
    entries: list[Node]
    product: Product | None
    retain: bool
    mixing: list[Node] = field(default_factory=list)
    silent: set[int] = field(default_factory=set)


@dataclass
class _Graph:
    """The graph below the losses.

    Attributes:
        task: for each node the first task that reached it: its only one, unless the node is of the trunk.
        edges: for each node its inputs.
        meets: nodes that a second task reached.
        kinds: of all nodes.
    """

    task: dict[Any, int] = field(default_factory=dict)
    edges: dict[Node, Sequence[Edge]] = field(default_factory=dict)
    meets: dict[Node, None] = field(default_factory=dict)
    kinds: set[type] = field(default_factory=set)


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
    own = {id(parameter) for parameter in parameters}
    compiled = {kind for kind in graph.kinds if kind.__name__ == "CompiledFunctionBackward"}
    if compiled and _reads(graph, compiled, own):  # one kind a compilation
        raise NoCut("the shared layer is inside a compiled module, whose backward runs whole")
    readers = _below(graph, graph.meets)
    together = any(loss.grad_fn in readers for loss in losses)
    cut = None
    if not together:
        cut = _cut(graph, readers, parameters, lambda node, _: {graph.task[node]: ALL})
    if cut is None or (cut.product is None and _picks(graph, readers, cut.entries)):
        cut = _cut_where_apart(losses, graph, readers, parameters, cut)
    if cut is None:
        raise NoCut("the losses of several tasks come out of one operation")
    return cut


def _picks(graph: _Graph, readers: Mapping[Node, int], entries: Sequence[Node]) -> bool:
    """Return whether a head begins with a part of a tensor of which others have parts too."""
    picking = {kind for kind in graph.kinds if kind.__name__ in PICKING}
    if not picking:
        return False
    heads = (node for node in graph.edges if node not in readers)
    return any(type(node) in picking for nodes in (heads, entries) for node in nodes)


def _cut_where_apart(
    losses: Sequence[Tensor],
    graph: _Graph,
    together: Mapping[Node, int],
    parameters: Sequence[Tensor],
    plain: Cut | None,
) -> Cut | None:
    """The cut where tasks that share tensors, but not elements, meet; the plain one if that does not do.

    Args:
        losses: for each task its own scalar with graph.
        graph: of all tasks.
        together: the nodes that several tasks reach.
        parameters: W.
        plain: the cut above these nodes.
    """
    followed = follow(losses, graph.edges, {id(parameter) for parameter in parameters})
    readers = _below(graph, followed.meets)
    if any(loss.grad_fn in readers for loss in losses):
        return plain
    try:
        cut = _cut(graph, readers, parameters, lambda node, k: followed.flows[node][k])
    except NoCut:
        if plain is None:
            raise
        return plain
    cut.mixing = [entry for entry in cut.entries if entry in followed.mixing]
    reaching = {task for task, loss in enumerate(losses) if loss.grad_fn in together}
    for node, edges in graph.edges.items():
        if node not in together and any(child in together for child, _ in edges):
            reaching.add(graph.task[node])
    cut.silent = reaching.difference(task for feeder in cut.feeders for task in feeder.tasks)
    return cut


def _cut(
    graph: _Graph,
    readers: Mapping[Node, int],
    parameters: Sequence[Tensor],
    shares_of: Callable[[Node, int], Shares],
) -> Cut:
    """The cut between the trunk and all above it.

    Args:
        graph: of all tasks.
        readers: of the trunk's nodes.
        parameters: W.
        shares_of: the tasks that flow from a node above the trunk into its k-th input.

    Raises:
        NoCut: a node above the trunk reads W.
    """
    own = {id(parameter) for parameter in parameters}
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
                entries[child] = None
                flows.append((k, edge, shares_of(node, k)))
        if flows:
            feeders.append(
                Feeder(node, list(dict.fromkeys(task for _, _, shares in flows for task in shares)), flows)
            )
    return Cut(
        feeders=feeders,
        entries=list(entries),
        product=product_at(next(iter(entries)), parameters, readers) if len(entries) == 1 else None,
        retain=not _parts_come_first([feeder.node for feeder in feeders], list(entries)),
    )


def _walk(losses: Sequence[Tensor]) -> _Graph:
    """Visit every node once and note who reached it first, and whether another task reached it too."""
    graph = _Graph()
    task, all_edges, meets, kinds = graph.task, graph.edges, graph.meets, graph.kinds
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
            kinds.add(type(node))
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


def _below(graph: _Graph, meets: Iterable[Node]) -> dict[Node, int]:
    """The trunk, all below nodes at which tasks meet: for each node its readers in it."""
    stack = [node for node in meets if type(node) is not AccumulateGrad]
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
    """Return whether a node of one of these kinds reads one of these leaves."""
    children = (child for node, edges in graph.edges.items() if type(node) in kinds for child, _ in edges)
    return any(type(child) is AccumulateGrad and id(child.variable) in own for child in children)


def _parts_come_first(feeders: Sequence[Node], entries: Sequence[Node]) -> bool:
    """Return whether the engine, which runs the newest node first, runs all heads before any entry."""
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
    shared, together = _below(graph, graph.meets), list[Tensor]()
    own: list[list[Tensor]] = [[] for _ in losses]
    for node, task in graph.task.items():
        if type(node) is AccumulateGrad:
            (together if node in shared or node in graph.meets else own[task]).append(node.variable)
    return together, own
