"""The flow of each task's gradient, if tasks share a tensor but not its elements.

Heads whose outputs are columns of one tensor, and losses that are elements of a vector, have nodes in common (`cat`,
`stack`, a mean over the batch), but each task sends its gradient to its own column. Followed box by box
(`balancers.boxes`), the tasks part again below `cat`, and their heads are their own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from balancers.box_rules import RULES, carried
from balancers.boxes import ALL, Shares, apart, around
from balancers.torch_private import AccumulateGrad

Edge = tuple[Any, int]  # of a node (or None), and which of its outputs


@dataclass
class Followed:
    """The part of the graph in which the tasks can be told apart.

    Attributes:
        meets: nodes at which they no longer can.
        mixing: those of them of whose output some task needs a part only.
        flows: for each node above these, and each of its inputs, the tasks that flow there.
    """

    meets: dict[Node, None] = field(default_factory=dict)
    mixing: dict[Node, None] = field(default_factory=dict)
    flows: dict[Node, list[Shares]] = field(default_factory=dict)


def follow(losses: Sequence[Tensor], edges: Mapping[Node, Sequence[Edge]], own: Collection[int]) -> Followed:
    """Follow T losses down their graph, node by node, until they meet.

    Args:
        losses: for each task its own scalar with graph.
        edges: for each node below them its inputs.
        own: ids of W's parameters, at which following ends.
    """
    readers = dict.fromkeys(edges, 0)  # that have yet to be followed
    for children in edges.values():
        for child, _ in children:
            if child in readers:
                readers[child] += 1
    arrived: dict[Node, dict[int, Shares]] = {}
    for task, loss in enumerate(losses):
        _arrive(arrived, (loss.grad_fn, loss.output_nr), {task: ALL})
    found, trunk = Followed(), set[Node]()
    ready = [node for node, number in readers.items() if not number]
    while ready:
        node = ready.pop()
        if node not in trunk:
            shares = _shares(node, arrived.pop(node, {}), edges[node], own, found)
            if shares is None:
                trunk.add(node)
            else:
                found.flows[node] = shares
        for k, (child, number) in enumerate(edges[node]):
            if child not in readers:
                continue
            if node in trunk:
                trunk.add(child)
            else:
                _arrive(arrived, (child, number), found.flows[node][k])
            readers[child] -= 1
            if not readers[child]:
                ready.append(child)
    return found


def _arrive(arrived: dict[Node, dict[int, Shares]], edge: Edge, shares: Shares) -> None:
    there = arrived.setdefault(edge[0], {}).setdefault(edge[1], {})
    for task, box in shares.items():
        there[task] = around(there[task], box) if task in there else box


def _shares(
    node: Node, arrived: Mapping[int, Shares], edges: Sequence[Edge], own: Collection[int], found: Followed
) -> list[Shares] | None:
    """For each input of a node the tasks that flow there; ``None``, with a note, where they meet."""
    if len(set[int]().union(*arrived.values())) < 2:
        return carried(node, arrived)
    if type(node).__name__ in RULES and all(apart(list(shares.values())) for shares in arrived.values()):
        flows = carried(node, arrived)
        kept = [shares for (child, _), shares in zip(edges, flows, strict=True) if type(child) is not AccumulateGrad]
        leaves = (child for child, _ in edges if type(child) is AccumulateGrad)
        if all(apart(list(s.values())) for s in kept) and not any(id(leaf.variable) in own for leaf in leaves):
            return flows
    found.meets[node] = None
    if any(box != ALL for shares in arrived.values() for box in shares.values()):
        found.mixing[node] = None
    return None
