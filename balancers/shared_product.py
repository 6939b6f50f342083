"""The gradients that T tasks have on a linear shared layer, in one batched product."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from balancers.torch_private import AccumulateGrad, saved

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


def _with(derivative: Callable[..., Tensor], saved: Tensor) -> Callable[[Tensor], Tensor]:
    def apply(parts: Tensor) -> Tensor:
        return derivative(parts, saved.detach().reshape(len(parts), 1, -1).expand_as(parts))

    return apply


def _relu(parts: Tensor, result: Tensor) -> Tensor:
    _aten.threshold_backward.grad_input(parts, result, 0, grad_input=parts)  # in place: the parts are ours
    return parts


@dataclass
class Product:
    """A product ``x W^T + b`` with at most activations above it.

    Attributes:
        x: the input of the layer, shape (N, in).
        activations: derivatives of the activations above it, the last one first.
        numbers: the index of the weight, and of the bias if it has one, among W's parameters.
    """

    x: Tensor
    activations: list[Callable[[Tensor], Tensor]]
    numbers: list[int]

    def gradients(self, parts: list[Tensor]) -> list[Tensor]:
        """Compute the gradients of each parameter from dL_i/d(features) of n tasks.

        Returns:
            In the order of W's parameters, shapes (n, out, in) and (n, out).
        """
        n, N = len(parts), len(self.x)
        stacked = torch.stack([part.reshape(N, -1) for part in parts], dim=1)  # (N, n, out)
        parts.clear()  # the memory is wanted
        for derivative in self.activations:
            stacked = derivative(stacked)
        flat = stacked.view(N, -1)
        found = [torch.mm(flat.t(), self.x).view(n, -1, self.x.shape[1])]
        if len(self.numbers) > 1:
            found.append(flat.sum(0).view(n, -1))
        return [found[self.numbers.index(k)] for k in range(len(found))]


def product_at(entry: Node, parameters: Sequence[Tensor], readers: Mapping[Node, int]) -> Product | None:
    """Return the product with W directly below a node, if W is used only there.

    Args:
        entry: the node at which the graph is cut.
        parameters: W.
        readers: for each node below, the number of nodes that flow into it.
    """
    node, activations = entry, []
    while derivative := _ACTIVATIONS.get(type(node).__name__):
        activations.append(derivative(node))
        node = node.next_functions[0][0]  # type: ignore[assignment]
        if node is not None and readers[node] > 1:
            return None
    if type(node).__name__ in ("ViewBackward0", "UnsafeViewBackward0"):  # inputs of more than two dimensions
        node = node.next_functions[0][0]  # type: ignore[assignment]
    if node is None or (node is not entry and readers[node] > 1):
        return None
    edges = [child for child, _ in node.next_functions]
    if type(node).__name__ == "AddmmBackward0" and saved(node, "alpha") == 1 == saved(node, "beta"):
        leaves = [_leaf(edges[2], readers, transposed=True), _leaf(edges[0], readers)]
        x = saved(node, "mat1")
    elif type(node).__name__ == "MmBackward0":
        leaves, x = [_leaf(edges[1], readers, transposed=True)], saved(node, "self")
    else:
        return None
    if x is None or x.is_complex() or not len(x) or (len(leaves) > 1 and (leaves[1] is None or leaves[1].dim() != 1)):
        return None
    numbers = {id(parameter): k for k, parameter in enumerate(parameters)}
    found = [numbers[id(leaf)] for leaf in leaves if id(leaf) in numbers]
    if not len(found) == len(leaves) == len(parameters):
        return None
    return Product(x.detach(), activations, found)


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
