"""Read from the autograd graph of the losses which task reaches which parameter, and the layers after W."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from balancers.torch_private import AccumulateGrad

# Between a layer's operation and its parameter there are only views and casts, which have no other input.
_VIEWS = frozenset(
    f"{name}Backward0"
    for name in ("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "ToCopy", "Expand")
)

Node = Any  # torch.autograd.graph.Node, or the AccumulateGrad of a leaf


class LossGraph:
    """The graph below the losses of one batch.

    Args:
        losses: a scalar with its graph per task.

    Attributes:
        reached: for each task the ids of the leaves (including parameters) that its loss depends on.
    """

    def __init__(self, losses: Mapping[str, Tensor]) -> None:
        self._parents: dict[Node, set[Node]] = defaultdict(set)
        self._leaves: dict[int, Node] = {}
        self.reached = {task: self._walk(loss) for task, loss in losses.items()}

    def _walk(self, loss: Tensor) -> set[int]:
        if loss.grad_fn is None:
            return {id(loss)}  # itself a parameter
        below = _closure([loss.grad_fn], _children)
        for node in below:
            for child in _children(node):
                self._parents[child].add(node)
        leaves = {id(node.variable): node for node in below if type(node) is AccumulateGrad}
        self._leaves |= leaves
        return set(leaves)

    def by_any(self) -> set[int]:
        """The ids of the leaves that some task reaches."""
        return set.union(*self.reached.values())

    def after(self, shared: Sequence[Tensor], parameters: Iterable[Tensor]) -> list[Tensor]:
        """Return the parameters that are applied to the output of W, nearer to the losses.

        Args:
            shared: the parameters that W consists of.
            parameters: where to look.
        """
        own = {id(parameter) for parameter in shared}
        operations = {node for parameter in shared for node in self._operations(parameter)}
        above = _closure(operations, lambda node: self._parents.get(node, ())) - operations
        below = _closure(operations, _children)
        return [
            parameter
            for parameter in parameters
            if id(parameter) not in own
            and self._leaves.get(id(parameter)) not in below
            and not above.isdisjoint(self._operations(parameter))
        ]

    def _operations(self, parameter: Tensor) -> set[Node]:
        """The operations that use a parameter."""
        leaf = self._leaves.get(id(parameter))
        used, todo = set[Node](), [] if leaf is None else [leaf]
        while todo:
            for parent in self._parents.get(todo.pop(), ()):
                if parent.name() in _VIEWS:
                    todo.append(parent)
                else:
                    used.add(parent)
        return used


def _children(node: Node) -> list[Node]:
    return [child for child, _ in node.next_functions if child is not None]


def _closure(start: Iterable[Node], neighbours: Any) -> set[Node]:
    """Return all nodes reachable from these, including themselves."""
    found = set(start)
    todo = list(found)
    while todo:
        new: Collection[Node] = [node for node in neighbours(todo.pop()) if node not in found]
        found.update(new)
        todo.extend(new)
    return found
