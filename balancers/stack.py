"""Balancers of K networks that are trained at once with stacked parameters."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from balancers.base import Balancer, BalancerWarning, StepRecord
from balancers.frozen import Frozen
from balancers.gradnorm import GradNorm
from balancers.losses import StepLosses, arrange
from balancers.measured_backward import measured_backward
from balancers.shared_gradients import TaskGradients, task_gradients
from balancers.static import Equal, SingleTask, Static
from balancers.uncertainty import Uncertainty
from balancers.weights import fail

STACKABLE = (Equal, Frozen, GradNorm, SingleTask, Static, Uncertainty)


class Stack:
    """K balancers, one for each of K networks of one architecture whose parameters are stacked (`torch.func`).

    The K networks run as one: a task's loss is a tensor of shape (K,), and one backward pass fills the gradients of
    all. `backward` weights loss i of network k by the k-th balancer's w_i(t). Balancers of one kind then move their
    weights together, each as it would alone, to within rounding.

    Args:
        balancers: with the same tasks, of the kinds in `STACKABLE`, without gradient accumulation.
        shared: W of all networks: each stacked parameter of the shared layer, shape (K, \\*shape). Only GradNorm and
            the frozen gradient rule use it.

    Raises:
        ValueError: there are no balancers, their tasks differ, or a kind cannot be stacked.

    >>> import torch
    >>> from balancers import GradNorm, Stack, Static
    >>> W, head = torch.ones(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)  # of two networks
    >>> trained = [Static(["a", "b"], {"a": 3.0, "b": 1.0}), GradNorm.robust(["a", "b"], [W])]
    >>> stack = Stack(trained, shared=[W])
    >>> features = W * torch.tensor([1.0, 2.0, 3.0])
    >>> stack.backward({"a": (features * head).square().sum(1), "b": features.sum(1).square()})
    >>> stack.balancers()[0].weights
    tensor([1.5000, 0.5000])
    """

    def __init__(self, balancers: Sequence[Balancer], shared: Iterable[Tensor]) -> None:
        self._members = list(balancers)
        if not self._members:
            fail("balancers", "a list of at least one balancer", [])
        self.tasks = self._members[0].tasks
        for balancer in self._members:
            if type(balancer) not in STACKABLE or getattr(getattr(balancer, "_window", None), "size", 1) != 1:
                rule = f"objects of {', '.join(kind.__name__ for kind in STACKABLE)}"
                fail("balancers", rule, type(balancer).__name__)
            if balancer.tasks != self.tasks:
                fail("balancers", f"the same tasks in all, {self.tasks}", balancer.tasks)
        self._shared, self._trusted = list(shared), set[str]()
        self._groups = [_Group(self._members, numbers) for numbers in _alike(self._members)]
        self.last: StepRecord | None = None

    def backward(self, losses: Mapping[str, Tensor | None]) -> None:
        """Fill ``.grad`` of the stacked parameters, then move every balancer's w(t) to w(t+1).

        Args:
            losses: for each task the losses of the K networks with their graph, shape (K,); a task whose loss is
                missing, ``None`` or without graph is absent.

        Raises:
            ValueError: as the balancers do in their first step.
        """
        unknown = [task for task in losses if task not in self.tasks]
        if unknown:
            fail("losses", f"losses of the tasks {self.tasks}", f"unknown {unknown}")
        pairs = [(number, losses.get(task)) for number, task in enumerate(self.tasks)]
        given = [(number, loss) for number, loss in pairs if loss is not None and loss.requires_grad]
        numbers, graphs = [number for number, _ in given], [loss for _, loss in given]
        if not given:
            return
        like = torch.empty(len(self._members), len(self.tasks))
        step = arrange(graphs, numbers, self.tasks, like, self._trusted)
        for group in self._groups:
            group.move_to(step.values)
            group.one._missing = step.missing
        self._begin(step)
        w = self._whole([group.one._w for group in self._groups])
        W = [p for p in self._shared if p.requires_grad]
        moving = [bool(W) and group.one._moves() for group in self._groups]
        G = self._measure(W, step, w).to(step.values) if any(moving) else None
        if G is None:
            step.backward(step.factors(w))
        for group, moves in zip(self._groups, moving, strict=True):
            own = G[group.numbers] if moves and G is not None else None
            group.one._end_step(step.values[group.numbers], own)
        self._record(w, step.values)

    def balancers(self) -> list[Balancer]:
        """Return the K balancers, each in the state that its own steps would have led to. Waits for the device."""
        for group in self._groups:
            group.write_back(self._members)
        return self._members

    def keep(self, numbers: Sequence[int], shared: Iterable[Tensor]) -> Stack:
        """Return the stack of some of the networks.

        Args:
            numbers: indices of the networks to keep.
            shared: as for the constructor, of these networks.
        """
        members = self.balancers()
        return Stack([members[k] for k in numbers], shared)

    def _begin(self, step: StepLosses) -> None:
        """Let the balancers process losses and norms before the first steps."""
        groups = [group for group in self._groups if group.one._waits()]
        for group in groups:
            group.one._begin(step.values[group.numbers], None)
        wanting = [group for group in groups if group.one._wants_norms(step.values[group.numbers])]
        W = [p for p in self._shared if p.requires_grad]
        if not wanting or not W:
            return
        found = TaskGradients(W, step, stacked=True)
        task_gradients(step.factors(torch.ones_like(step.values)), found)
        norms = found.norms().t().to(step.values)
        for group in wanting:
            group.one._begin(step.values[group.numbers], norms[group.numbers])

    def _measure(self, W: Sequence[Tensor], step: StepLosses, w: Tensor) -> Tensor:
        """Run the backward pass and return ``||grad_W w_i L_i||`` of each network, (K, T)."""
        found = TaskGradients(W, step, stacked=True)
        measured_backward(step.factors(w), found)
        return found.norms().t()

    def _record(self, w: Tensor, values: Tensor) -> None:
        records = [group.one.last for group in self._groups]
        G = [record.gradient_norms if record else None for record in records]
        r = [record.rates if record else None for record in records]
        self.last = StepRecord(w, values, self._whole(G), self._whole(r))

    def _whole(self, rows: Sequence[Tensor | None]) -> Any:
        """Join the groups' values in a tensor (K, T), NaN where a group has none; ``None`` if no group has any."""
        given = next((row for row in rows if row is not None), None)
        if given is None or len(rows) == 1:
            return given
        whole = given.new_full((len(self._members), len(self.tasks)), torch.nan)
        for group, row in zip(self._groups, rows, strict=True):
            if row is not None:
                whole[group.numbers] = row
        return whole


class _Group:
    """Balancers of one kind combined: an object of their class whose state has a row for each.

    Args:
        members: all balancers of the stack.
        places: indices of those in this group.
    """

    def __init__(self, members: Sequence[Balancer], places: list[int]) -> None:
        self.places = places
        # Of all, a slice, which copies nothing.
        self.numbers: Any = slice(None) if len(places) == len(members) else torch.tensor(places)
        chosen = [members[k] for k in places]
        shared = getattr(chosen[0], "_shared", None)
        self.one = copy.deepcopy(chosen[0], {id(shared): shared})  # W itself is not copied
        self.one.load_state_dict(_stacked([balancer.state_dict() for balancer in chosen]))
        self.one._merge(chosen)

    def move_to(self, like: Tensor) -> None:
        """Bring the state to the device and dtype of the losses."""
        one = self.one
        if one._w.device == like.device and one._w.dtype == like.dtype:
            return
        one._move(like)
        if isinstance(self.numbers, Tensor):
            self.numbers = self.numbers.to(like.device)

    def write_back(self, members: Sequence[Balancer]) -> None:
        """Give each balancer its row of the state."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BalancerWarning)  # of all at once; each will warn for itself
            state = self.one.state_dict()
        for row, place in enumerate(self.places):
            own = _row(state, row) | {"kind": members[place]._kind()}  # `Equal` may stand among `Static`
            members[place].load_state_dict(own)


def _alike(members: Sequence[Balancer]) -> list[list[int]]:
    """Return the indices of balancers that can take their steps together, kind by kind."""
    kinds: dict[Any, list[int]] = {}
    for number, balancer in enumerate(members):
        kinds.setdefault(balancer._alike(), []).append(number)
    return list(kinds.values())


def _stacked(states: Sequence[Any]) -> Any:
    """Combine the states of K balancers: numbers become (K,), vectors (..., T) become (..., K, T)."""
    first = states[0]
    if isinstance(first, Tensor):
        return torch.stack(list(states), dim=max(0, first.dim() - 1))
    if isinstance(first, dict):
        return {key: _stacked([state[key] for state in states]) for key in first}
    if isinstance(first, list) and any(isinstance(part, Tensor) for part in first):
        return [_stacked(parts) for parts in zip(*states, strict=True)]
    return first  # the same in all


def _row(state: Any, row: int) -> Any:
    """Return the state of one of K balancers: the inverse of `_stacked`."""
    if isinstance(state, Tensor):
        return state[row].clone() if state.dim() == 1 else state.select(-2, row).clone()
    if isinstance(state, dict):
        return {key: _row(part, row) for key, part in state.items()}
    return [_row(part, row) for part in state] if isinstance(state, list) else state
