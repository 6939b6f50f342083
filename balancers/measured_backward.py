"""A backward pass that also computes the T gradients of W: in one pass if the graph can be cut, else task by task."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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


_JOINS = {"CatBackward0", "StackBackward0"}
_VIEWED = ("Unbind", "Split", "SplitWithSizes", "Select", "Slice", "View", "UnsafeView", "T", "Transpose", "Squeeze")
_VIEWS = {f"{name}Backward0" for name in _VIEWED}


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
    path = _path_of(cut.entries, own)
    OnePass(cut, found, [step.numbers[k] for k in walked]).run(step.L, factors)
    return path


def _path_of(entries: Sequence[Node], own: Collection[int]) -> Path:
    """Describe how the T gradients of W are computed from the place where the heads meet.

    Args:
        entries: the nodes where they meet.
        own: ids of W's parameters.
    """
    for entry in entries:
        node: Any = entry
        while node is not None and node.name() in _VIEWS:
            node = node.next_functions[0][0]
        joins = node is not None and node.name() in _JOINS
        if joins and sum(_reaches(child, own) for child, _ in node.next_functions) > 1:
            why = f"the heads' outputs are joined in {node.name()}, and each task runs back through all heads"
            return Path("task by task", why)
    return Path("one pass", f"the heads meet in {', '.join(node.name() for node in entries)}")


def _reaches(node: Any, own: Collection[int]) -> bool:
    """Return whether a node's graph leads to one of these leaves."""
    stack, seen = [node], set[Any]()
    while stack:
        one = stack.pop()
        if one is None or one in seen:
            continue
        seen.add(one)
        if type(one) is AccumulateGrad:
            if id(one.variable) in own:
                return True
            continue
        stack.extend(child for child, _ in one.next_functions)
    return False
