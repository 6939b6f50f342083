"""Weights that a task's loss runs through, and their order: read from its autograd graph by one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from balancers.node_kinds import ARITHMETIC, LOOKUPS, MATRIX_PRODUCTS, NO_LAYERS, OPAQUE, PRODUCTS, VIEWS, kind_of
from balancers.shared_gradients import unnoticed_by_ddp
from balancers.torch_private import AccumulateGrad, sequence_number, shape_of
from balancers.weights import fail

Node = Any  # torch.autograd.graph.Node, or the AccumulateGrad of a leaf


@dataclass
class TaskReach:
    """The weights that a loss runs through. A set of weights is a number whose k-th bit stands for the k-th weight.

    Attributes:
        used: the weights.
        before: for each of them those of which some application is below some application of it.
        first: for each of them how early it was first applied.
        lookups: weights that are tables, from which rows are looked up.
        products: weights that are applied in any other way.
        opaque: weights in one operation that shows no order, as a compiled module; for each operation its kind.
        gradients: of all parameters; where a factor of zero stops it, made up from there on.
    """

    used: int = 0
    before: dict[int, int] = field(default_factory=dict)
    first: dict[int, int] = field(default_factory=dict)
    lookups: int = 0
    products: int = 0
    opaque: list[tuple[str, int]] = field(default_factory=list)
    gradients: Mapping[int, Tensor | None] = field(default_factory=dict)

    def after(self, weight: int) -> int:
        """The weights of which some application is above some application of this one."""
        return sum(1 << other for other, below in self.before.items() if below >> weight & 1)


def leaves_below(loss: Tensor) -> list[Tensor]:
    """The leaves that a loss depends on, in an order that the graph alone decides."""
    if loss.grad_fn is None:
        return [loss]  # itself a parameter
    return [node.variable for node in _nodes(loss) if type(node) is AccumulateGrad]


def parameters_among(leaves: Sequence[Tensor]) -> list[Tensor]:
    """The parameters among leaves, which may also be inputs that require grad; all, where none is a parameter.

    Parameters are plain tensors where a model is called as a function of them.
    """
    return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)] or list(leaves)


def task_reach(loss: Tensor, weights: Mapping[int, int]) -> TaskReach:
    """Send the gradient of a loss back to its leaves and see how far it comes. Graph and ``.grad`` stay.

    An edge of the graph is not enough: where the outputs of several heads are joined in one tensor and taken apart
    again, each task has an edge to the heads of the others, with a gradient of exactly zero.

    Args:
        loss: a scalar with its graph.
        weights: the number of each weight, by the id of its parameter.

    Raises:
        ValueError: a part of the graph cannot be run back to chosen parameters.
    """
    nodes = _nodes(loss) if loss.grad_fn is not None else []
    if any(kind_of(node) == "CheckpointFunction" for node in nodes):
        rule = "`use_reentrant=False`, without which the layers inside are not in the graph"
        fail("gradient checkpointing", rule, "`use_reentrant=True`")
    made_of_weights = _made_of_weights(nodes)
    leaves = [node.variable for node in nodes if type(node) is AccumulateGrad]
    if not leaves:
        return TaskReach()
    edges: dict[Node, list[Node]] = {}
    inner = [node for node in nodes if type(node) is not AccumulateGrad]
    handles = [node.register_hook(_watch(node, edges, made_of_weights)) for node in inner]
    try:
        with unnoticed_by_ddp([loss]):
            found = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    reach = _ordered(nodes, edges, made_of_weights, weights)
    reach.gradients = dict(zip(map(id, leaves), found, strict=True))
    return reach


def _nodes(loss: Tensor) -> list[Node]:
    """All nodes below a loss, each after those that it reads."""
    order: list[Node] = []
    seen, stack = set[Node](), [(loss.grad_fn, False)]
    while stack:
        node, is_closed = stack.pop()
        if is_closed:
            order.append(node)
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((child, False) for child, _ in node.next_functions)
    return order


def _made_of_weights(nodes: Sequence[Node]) -> dict[Node, tuple[int, ...]]:
    """The nodes that compute with parameters alone, and the shape of what they compute."""
    found: dict[Node, tuple[int, ...]] = {}
    leaves: dict[Node, int] = {}  # below each node, as a set
    parameters = {id(p) for p in parameters_among([n.variable for n in nodes if type(n) is AccumulateGrad])}
    for number, node in enumerate(nodes):
        if type(node) is AccumulateGrad:
            leaves[node] = 1 << number
            if id(node.variable) in parameters:
                found[node] = tuple(node.variable.shape)
            continue
        children = [child for child, _ in node.next_functions]
        leaves[node] = _union(leaves.get(child, 0) for child in children)
        if kind_of(node) in VIEWS | ARITHMETIC | MATRIX_PRODUCTS and _is_made_of_weights(
            node, children, found, leaves
        ):
            found[node] = shape_of(node) or ()  # a nested tensor has none
    return found


def _is_made_of_weights(
    node: Node, children: Sequence[Node], found: Mapping[Node, tuple[int, ...]], leaves: Mapping[Node, int]
) -> bool:
    """Return whether a node computes a weight, or a number, from parameters.

    An operand that is none may be data. If the result has the shape of the weight, it is taken for a mask or a
    number; one that depends on nothing but that weight, as its spectral norm, is no data.
    """
    kind = kind_of(node)
    if kind in VIEWS or kind in MATRIX_PRODUCTS or all(child in found for child in children):
        return all(child in found for child in children if child is not None or kind in MATRIX_PRODUCTS)
    alike = [child for child in children if child in found and found[child] == shape_of(node)]
    return any(
        all(child in found or child is None or not leaves[child] & ~leaves[weight] for child in children)
        for weight in alike
    )


def _watch(
    node: Node, edges: dict[Node, list[Node]], made_of_weights: Mapping[Node, tuple[int, ...]]
) -> Callable[[Sequence[Tensor | None], Sequence[Tensor | None]], tuple[Tensor | None, ...]]:
    """A hook that notes to which of its inputs a node's gradient goes on.

    A penalty on weights, a number computed from them alone, is no use of a layer: nothing goes on to it.
    """
    children = [child for child, _ in node.next_functions]
    is_product = kind_of(node) in PRODUCTS and sum(child is not None for child in children) > 1

    def hook(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
        passed, reached = list(inputs), edges.setdefault(node, [])
        lives = is_product and any(is_nonzero(gradient) for gradient in outputs)
        for k, (child, gradient) in enumerate(zip(children, inputs, strict=False)):
            if child is None or gradient is None:
                continue
            if node not in made_of_weights and made_of_weights.get(child) == ():
                passed[k] = torch.zeros_like(gradient)
            elif is_nonzero(gradient):
                reached.append(child)
            elif lives:
                reached.append(child)
                made_up = torch.arange(1.0, gradient.numel() + 1, device=gradient.device).sin()
                passed[k] = made_up.to(gradient.dtype).reshape(gradient.shape)
        return tuple(passed)

    return hook


def is_nonzero(gradient: Tensor | None) -> bool:
    """Return whether a gradient is anything but zero everywhere. Waits for the device."""
    if gradient is None:
        return False
    return bool((gradient.coalesce().values() if gradient.is_sparse else gradient).any())


def _ordered(
    nodes: Sequence[Node],
    edges: Mapping[Node, Sequence[Node]],
    made_of_weights: Mapping[Node, tuple[int, ...]],
    weights: Mapping[int, int],
) -> TaskReach:
    """The weights that are applied on the way of the gradient, and their order."""
    reach = TaskReach()
    content: dict[Node, int] = {}  # of a node that is made of weights: which
    applied: dict[Node, int] = {}
    below: dict[Node, int] = {}
    for node in nodes:
        children = edges.get(node, ())
        if type(node) is AccumulateGrad:
            content[node] = 1 << weights[id(node.variable)] if id(node.variable) in weights else 0
        elif node in made_of_weights:
            content[node] = _union(content.get(child, 0) for child in children)
        else:
            own = _union(content.get(child, 0) for child in children)
            applied[node] = 0 if kind_of(node) in NO_LAYERS else own
            below[node] = _union(below.get(child, 0) | applied.get(child, 0) for child in children)
    for node, own in applied.items():
        if not own:
            continue
        reach.used |= own
        kind = kind_of(node)
        if kind in LOOKUPS:
            reach.lookups |= own
        else:
            reach.products |= own
        if kind in OPAQUE:
            reach.opaque.append((kind, own))
        for weight in bits(own):
            reach.before[weight] = reach.before.get(weight, 0) | below[node]
            reach.first[weight] = min(reach.first.get(weight, sequence_number(node)), sequence_number(node))
    return reach


def _union(sets: Any) -> int:
    whole = 0
    for one in sets:
        whole |= one
    return whole


def bits(weights: int) -> list[int]:
    """The numbers of the weights in a set, in order.

    >>> bits(0b1101)
    [0, 2, 3]
    """
    return [number for number in range(weights.bit_length()) if weights >> number & 1]
