"""A backward pass that also computes the T gradients of W: in one pass if the graph can be cut, else task by task."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

from balancers.cut import Cut, NoCut, find_cut
from balancers.one_pass import OnePass
from balancers.shared_gradients import TaskGradients, task_gradients
from balancers.torch_private import AccumulateGrad


class Path(NamedTuple):
    """The way in which the T gradients of W are computed, ``"one pass"`` or ``"task by task"``, and the reason."""

    name: str
    why: str


_JOINS = {"CatBackward0", "StackBackward0", "CopySlices"}


def measured_backward(factors: Tensor, found: TaskGradients, one_pass: bool = True) -> Path:
    """Fill ``.grad`` with the gradient of ``sum_i factors_i L_i``, and ``found`` with ``factors_i grad_W L_i``.

    Args:
        factors: of the shape of the step's losses, the tasks last.
        found: has the losses, and receives the gradients of W.
        one_pass: ``False`` goes task by task even where the graph can be cut.

    Returns:
        The way in which it was done.

    Raises:
        ValueError: a loss that is neither 0 nor NaN does not depend on W.
    """
    step = found.step
    cut: Cut | None = None
    path = Path("task by task", "asked for by `one_pass = False`")
    own = {id(parameter) for parameter in found.parameters}
    # A loss that is a leaf, as a zero that stands for nothing, has no graph to cut.
    walked = [k for k, loss in enumerate(step.graphs) if loss.grad_fn is not None or id(loss) in own]
    if one_pass:
        try:
            cut = find_cut([step.graphs[k] for k in walked], found.parameters)
        except NoCut as reason:
            path = Path("task by task", str(reason))
    if cut is None:
        task_gradients(factors, found)
        step.backward(factors)
        return path
    for k in set(range(len(step.graphs))).difference(walked):
        found.missed(step.numbers[k])
    path = _path_of(cut, own)
    OnePass(cut, found, [step.numbers[k] for k in walked]).run(step.L, factors)
    return path


def _path_of(cut: Cut, own: Collection[int]) -> Path:
    """Describe how the T gradients of W are computed from the place where the heads meet.

    Args:
        cut: the place where they meet.
        own: ids of W's parameters.
    """
    for entry in cut.mixing:
        join = _join_below(entry, own)
        if join is not None:
            where = join if join == _name(entry) else f"{join} and mixed in {_name(entry)}"
            return Path("task by task", f"the heads' outputs are joined in {where}: each task runs back through all")
    return Path("one pass", f"the heads meet in {', '.join(map(_name, cut.entries))}")


def _name(node: Node) -> str:
    return type(node).__name__


def _join_below(node: Any, own: Collection[int]) -> str | None:
    """Return the first join below a node of several tensors that lead to W, if no other branch comes before it."""
    ways = _ways(node, own)
    while True:
        onward = ways[node]
        if len(onward) > 1:
            return _name(node) if _name(node) in _JOINS else None
        if not onward:
            return None
        node = onward[0]


def _ways(node: Any, own: Collection[int]) -> dict[Any, list[Any]]:
    """Return, for each node below one, the inputs that lead to one of these leaves."""
    children: dict[Any, list[Any]] = {}
    parents: dict[Any, list[Any]] = {}
    stack = [node]
    while stack:
        one = stack.pop()
        if one in children:
            continue
        children[one] = [child for child, _ in one.next_functions if child is not None]
        for child in children[one]:
            parents.setdefault(child, []).append(one)
        stack.extend(children[one])
    leading = set[Any]()
    stack = [one for one in children if type(one) is AccumulateGrad and id(one.variable) in own]
    while stack:
        one = stack.pop()
        if one not in leading:
            leading.add(one)
            stack.extend(parents.get(one, []))
    return {one: list(dict.fromkeys(c for c in found if c in leading)) for one, found in children.items()}
