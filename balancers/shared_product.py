"""The gradients that T tasks have on a linear shared layer, in one batched product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

AccumulateGrad: type = torch._C._functions.AccumulateGrad  # the node of a leaf


@dataclass
class Product:
    """A product ``x W^T + b`` with at most rectifiers above it.

    Attributes:
        x: what W is multiplied with, shape (N, in).
        rectified: outputs of the rectifiers above, the uppermost first.
        weight: the number of the weight among W's parameters.
        bias: the number of the bias, if it has one.
    """

    x: Tensor
    rectified: list[Tensor]
    weight: int
    bias: int | None

    def gradients(self, parts: Tensor) -> list[Tensor]:
        """From dL_i/d(features), shape (T, \\*features), the T gradients of each parameter: (T, out, in), (T, out)."""
        for result in self.rectified:
            parts = torch.ops.aten.threshold_backward(parts, result, 0)
        parts = parts.reshape(len(parts), len(self.x), -1)
        rows = {self.weight: torch.matmul(parts.transpose(1, 2), self.x)}
        if self.bias is not None:
            rows[self.bias] = parts.sum(1)
        return [rows[k] for k in sorted(rows)]


def product_at(entry: Node, parameters: Sequence[Tensor], readers: Mapping[Node, Sequence[Node]]) -> Product | None:
    """The product with W right below a node, if W is used there and nowhere else.

    Args:
        entry: where the graph is cut.
        parameters: W.
        readers: for each node below, the nodes that flow into it.
    """
    node, rectified = entry, []
    while type(node).__name__ == "ReluBackward0":
        rectified.append(node._saved_result.detach())  # type: ignore[attr-defined]
        node = node.next_functions[0][0]  # type: ignore[assignment]
        if node is not None and len(readers[node]) > 1:
            return None
    if type(node).__name__ in ("ViewBackward0", "UnsafeViewBackward0"):  # inputs of more than two dimensions
        node = node.next_functions[0][0]  # type: ignore[assignment]
    if node is None or (node is not entry and len(readers[node]) > 1):
        return None
    edges = [child for child, _ in node.next_functions]
    if type(node).__name__ == "AddmmBackward0" and node._saved_alpha == 1 == node._saved_beta:  # type: ignore[attr-defined]
        leaves = [_leaf(edges[2], readers, transposed=True), _leaf(edges[0], readers)]
        x = node._saved_mat1  # type: ignore[attr-defined]
    elif type(node).__name__ == "MmBackward0":
        leaves, x = [_leaf(edges[1], readers, transposed=True)], node._saved_self  # type: ignore[attr-defined]
    else:
        return None
    numbers = {id(parameter): k for k, parameter in enumerate(parameters)}
    found = [numbers.get(id(leaf)) for leaf in leaves]
    if x is None or found[0] is None or len(parameters) != len(found) or None in found:
        return None
    return Product(x.detach(), rectified, found[0], found[1] if len(found) == 2 else None)


def _leaf(node: Node | None, readers: Mapping[Node, Sequence[Node]], transposed: bool = False) -> Tensor | None:
    """The leaf below a node, through a transposition and a cast to half precision, if nothing else reads it."""
    turns = 0
    while node is not None and len(readers[node]) == 1:
        if type(node) is AccumulateGrad:
            return node.variable if turns == transposed else None  # type: ignore[attr-defined,no-any-return]
        kind = type(node).__name__
        if kind not in ("TBackward0", "ToCopyBackward0"):
            return None
        turns += kind == "TBackward0"
        node = node.next_functions[0][0]
    return None
