"""The gradients that T tasks have on a linear shared layer, in one batched product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from balancers.torch_private import AccumulateGrad, saved, shape_of

_aten = torch.ops.aten
_gelu = _aten.gelu_backward.default
_silu, _tanh, _sigmoid = _aten.silu_backward.default, _aten.tanh_backward.default, _aten.sigmoid_backward.default
# Activations supported above W: for each node kind, dL/d(input) as a function of n dL/d(output), (N, n, out).
_ACTIVATIONS: dict[str, Callable[[Any], Callable[[Tensor], Tensor]]] = {
    "ReluBackward0": lambda node: _with(_relu, saved(node, "result")),
    "GeluBackward0": lambda node: _with(partial(_gelu, approximate=saved(node, "approximate")), saved(node, "self")),
    "SiluBackward0": lambda node: _with(_silu, saved(node, "self")),
    "TanhBackward0": lambda node: _with(_tanh, saved(node, "result")),
    "SigmoidBackward0": lambda node: _with(_sigmoid, saved(node, "result")),
}

# Linear layers: which input the layer below is, and the name of the factor that W is multiplied with.
_PRODUCTS = {"AddmmBackward0": (1, "mat1"), "MmBackward0": (0, "self")}


def _through(parts: Tensor, factor: Tensor) -> Tensor:
    return (parts.reshape(-1, factor.shape[1]) @ factor.detach().t()).view(*parts.shape[:2], -1)


def _with(derivative: Callable[..., Tensor], saved: Tensor) -> Callable[[Tensor], Tensor]:
    def apply(parts: Tensor) -> Tensor:
        rows = saved.detach()
        rows = rows.unsqueeze(1) if rows.dim() == 2 and len(rows) == len(parts) else rows.reshape(len(parts), 1, -1)
        return derivative(parts, rows.expand(parts.shape))

    return apply


def _relu(parts: Tensor, result: Tensor) -> Tensor:
    _aten.threshold_backward.grad_input(parts, result, 0, grad_input=parts)  # in place: the parts are ours
    return parts


@dataclass
class Product:
    """A product ``x W^T + b`` with at most activations and linear layers above it.

    Attributes:
        x: the input of the layer, shape (N, in).
        derivatives: derivatives of those above it, the last one first.
        numbers: the index of the weight, and of the bias if it has one, among W's parameters.
        most: elements of the largest output of those linear layers and of W; 0 if there is only W.
    """

    x: Tensor
    derivatives: list[Callable[[Tensor], Tensor]]
    numbers: list[int]
    most: int

    def gradients(self, parts: list[Tensor]) -> list[Tensor]:
        """Compute the gradients of each parameter from dL_i/d(features) of n tasks.

        Returns:
            In the order of W's parameters, shapes (n, out, in) and (n, out).
        """
        n, N = len(parts), len(self.x)
        # A part of shape (N, out) is taken as it is, since a call of torch costs more than the question.
        rows = [part if part.dim() == 2 and len(part) == N else part.reshape(N, -1) for part in parts]
        flat = torch.cat(rows, dim=1)
        parts.clear()  # the memory is wanted
        rows.clear()
        if self.derivatives:
            stacked = flat.view(N, n, -1)
            for derivative in self.derivatives:
                stacked = derivative(stacked)
            flat = stacked.view(N, -1)
        found = [torch.mm(flat.t(), self.x).view(n, -1, self.x.shape[1])]
        if len(self.numbers) > 1:
            found.append(flat.sum(0).view(n, -1))
        return [found[self.numbers.index(k)] for k in range(len(found))]


def product_at(entry: Node, parameters: Sequence[Tensor], readers: Mapping[Node, int]) -> Product | None:
    """Return the product with W below a node, if only activations and linear layers lie between.

    Args:
        entry: the node at which the graph is cut.
        parameters: W.
        readers: for each node below, the number of nodes that flow into it.
    """
    node: Any = entry
    own, derivatives, products = {id(p) for p in parameters}, list[Callable[[Tensor], Tensor]](), list[Node]()
    while node is not None and (node is entry or readers[node] == 1):
        kind, onward = type(node).__name__, 0
        if kind in _ACTIVATIONS:
            derivatives.append(_ACTIVATIONS[kind](node))
        elif kind in _PRODUCTS:
            if kind == "AddmmBackward0" and not saved(node, "alpha") == 1 == saved(node, "beta"):
                return None
            products.append(node)
            leaves = _leaves(node, readers)
            if any(id(leaf) in own for leaf in leaves):
                return _product(products, leaves, derivatives, parameters)
            factor = saved(node, "mat2")
            if factor is None or not factor.untyped_storage().size():
                return None  # freed by `fully_shard` until the trunk's pass comes to it
            derivatives.append(partial(_through, factor=factor))
            onward = _PRODUCTS[kind][0]
        elif kind not in ("ViewBackward0", "UnsafeViewBackward0"):  # of inputs of more than two dimensions
            return None
        node = node.next_functions[onward][0]
    return None


def _product(
    products: Sequence[Node],
    leaves: Sequence[Tensor | None],
    derivatives: list[Callable[[Tensor], Tensor]],
    parameters: Sequence[Tensor],
) -> Product | None:
    """Return the product of the last node, if its leaves are all of W and its rows are those of the nodes above."""
    places = {id(parameter): k for k, parameter in enumerate(parameters)}
    numbers = [places[id(leaf)] for leaf in leaves if id(leaf) in places]
    x = saved(products[-1], _PRODUCTS[type(products[-1]).__name__][1])
    if x is None or x.is_complex() or not len(x) or not len(numbers) == len(leaves) == len(parameters):
        return None
    if leaves[1:] and leaves[1].dim() != 1:  # type: ignore[union-attr]
        return None
    most = 0
    if len(products) > 1:
        sizes = [shape_of(node) or (0, 0) for node in products]
        if any(rows != len(x) for rows, _ in sizes):
            return None
        most = max(rows * columns for rows, columns in sizes)
    return Product(x.detach(), derivatives, numbers, most)


def _leaves(node: Node, readers: Mapping[Node, int]) -> list[Tensor | None]:
    """Return the weight and the bias of a linear layer."""
    edges = [child for child, _ in node.next_functions]
    if type(node).__name__ == "MmBackward0":
        return [_leaf(edges[1], readers, transposed=True)]
    return [_leaf(edges[2], readers, transposed=True), _leaf(edges[0], readers)]


def _leaf(node: Node | None, readers: Mapping[Node, int], transposed: bool = False) -> Tensor | None:
    """Return the leaf below a node, through a transposition and a cast to half precision, if it has one reader."""
    turns = 0
    while node is not None and readers[node] == 1:
        if type(node) is AccumulateGrad:
            return node.variable if turns == transposed else None  # type: ignore[attr-defined]
        kind = type(node).__name__
        if kind not in ("TBackward0", "ToCopyBackward0"):
            return None
        turns += kind == "TBackward0"
        node = node.next_functions[0][0]
    return None
