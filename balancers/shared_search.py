"""The search for the last layer that every task reaches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import combinations
from operator import and_, or_

import torch
from torch import Tensor

from balancers.node_kinds import OPAQUE
from balancers.task_reach import TaskReach, bits, leaves_below, parameters_among, task_reach
from balancers.weights import fail


class SharedSearch:
    """Takes in the losses of all tasks, of one batch or of several, and says which layer is W.

    A weight counts as a layer if it has two dimensions or more and is multiplied with features or looked up in;
    biases, norms and scales do not count.

    Args:
        names: of parameters, by id: only these count. ``None`` takes all that the losses depend on, named by shape.
    """

    def __init__(self, names: Mapping[int, str] | None = None) -> None:
        self._names = names
        self._weights: list[Tensor] = []
        self._numbers: dict[int, int] = {}
        self._tasks: dict[str, TaskReach] = {}
        self._common: dict[int, Tensor] = {}  # the entries of each weight in which every task's gradient is not zero

    @property
    def tasks(self) -> list[str]:
        """The tasks whose losses have been taken in and reach some weight."""
        return [task for task, reach in self._tasks.items() if reach.used]

    def add(self, task: str, loss: Tensor) -> None:
        """Take in the loss of a task. It keeps neither the graph nor the loss.

        Raises:
            ValueError: see `balancers.task_reach.task_reach`.
        """
        for leaf in parameters_among(leaves_below(loss)):
            if leaf.dim() > 1 and id(leaf) not in self._numbers and (self._names is None or id(leaf) in self._names):
                self._numbers[id(leaf)] = len(self._weights)
                self._weights.append(leaf)
        reach = task_reach(loss, self._numbers)
        for number in bits(reach.used & ~reach.lookups):
            gradient = reach.gradients[id(self._weights[number])]
            if gradient is not None and not gradient.is_sparse:
                common = self._common.get(number)
                self._common[number] = gradient != 0 if common is None else common & (gradient != 0)
        reach.gradients = {}
        self._tasks[task] = reach

    def by_all(self) -> list[Tensor]:
        """The weights that every task reaches: at least one entry of each is used by all."""
        return self._tensors(self._candidates())

    def not_shared(self) -> list[Tensor]:
        """The weights that every task uses and that still are none to share: see `find_shared_layer`."""
        return self._tensors(self._used_by_all() & ~self._candidates())

    def after(self, weights: Iterable[Tensor]) -> list[Tensor]:
        """Those of `by_all` that every task applies after one of these, nearer to the losses."""
        given = [self._numbers[id(weight)] for weight in weights if id(weight) in self._numbers]
        candidates = self._without_towers(self._candidates())
        later = [q for q in bits(candidates) if q not in given and any(self._before(q) >> p & 1 for p in given)]
        return [self._weights[number] for number in later]

    def last(self) -> list[Tensor]:
        """The last weights that every task reaches: one, or those that lie beside each other.

        Raises:
            ValueError: there is none, or the graph shows no order.
        """
        candidates = self._candidates()
        if not candidates:
            fail("losses", "tasks that share a layer with weights", self._nothing_shared())
        last = self._last_of(self._without_towers(candidates))
        for reach in self._tasks.values():
            for kind, inside in reach.opaque:
                if (inside & last).bit_count() > 1:
                    found = f"{OPAQUE[kind]} around {self._listed(inside & last)}"
                    advice = "compute the losses without it, or name the layer"
                    fail("losses", "the layers that all tasks share one by one in the graph", f"{found}: {advice}")
        if not last:
            rule = "tasks that go through the layers that they share in one order"
            fail("losses", rule, f"no last one among {self._listed(candidates)}: name the layer")
        return self._tensors(last)

    def _candidates(self) -> int:
        """Return the weights that every task reaches, except tables that a head uses too (tied embeddings)."""
        used = self._used_by_all()
        apart = [number for number, common in self._common.items() if not bool(common.any())]
        return used & ~sum(1 << number for number in apart) & ~self._tied()

    def _used_by_all(self) -> int:
        return reduce(and_, (reach.used for reach in self._tasks.values())) if self._tasks else 0

    def _tied(self) -> int:
        tables = products = 0
        for reach in self._tasks.values():
            tables, products = tables | reach.lookups, products | reach.products
        return tables & products

    def _before(self, weight: int) -> int:
        """The weights that every task applies before this one.

        Where two are applied in turn, as in a block that is run twice, or not in the same order by all tasks, the one
        that was first applied earlier is before the other.
        """
        found = 0
        for other in bits(reduce(or_, (reach.before.get(weight, 0) for reach in self._tasks.values()))):
            after = [reach.before.get(weight, 0) >> other & 1 for reach in self._tasks.values()]
            first = [reach.before.get(other, 0) >> weight & 1 for reach in self._tasks.values()]
            is_mixed = all(map(max, after, first)) and all(after) == all(first)
            if (all(after) and not all(first)) or (is_mixed and self._first(other) < self._first(weight)):
                found |= 1 << other
        return found

    def _first(self, weight: int) -> int:
        return min(reach.first[weight] for reach in self._tasks.values() if weight in reach.first)

    def _last_of(self, candidates: int) -> int:
        last = candidates
        for weight in bits(candidates):
            last &= ~self._before(weight)
        return last

    def _without_towers(self, candidates: int) -> int:
        """Leave out what is one task's own tower, which another task's loss reads too, as in ESMM."""
        left = candidates
        while towers := [weight for weight in bits(self._last_of(left)) if self._is_tower(weight, left, candidates)]:
            left &= ~sum(1 << weight for weight in towers)
        return left

    def _is_tower(self, weight: int, left: int, candidates: int) -> bool:
        """Return whether one task ends in a weight that another one bypasses, both without own weights after it.

        Args:
            weight: one of those that every task reaches.
            left: those that are no tower.
            candidates: all of them; the others are a task's own.
        """
        earlier, ends, goes_around = self._before(weight) & left, False, False
        for reach in self._tasks.values():
            own, after = reach.used & ~candidates, reach.after(weight)
            if own & after:
                continue
            around = any(reach.before[other] & earlier for other in bits(own & ~after))
            goes_around, ends = goes_around or around, ends or not around
        return ends and goes_around

    def _nothing_shared(self) -> str:
        for task, reach in self._tasks.items():
            if not reach.used:
                return f"none below the loss of `{task}` with a gradient that is not zero"
        for (a, one), (b, other) in combinations(self._tasks.items(), 2):
            if not one.used & other.used:
                return f"none that both `{a}` and `{b}` reach"
        if tied := self._used_by_all() & self._tied():
            return f"{self._listed(tied)} alone, which a head uses too (tied embeddings): name another layer"
        if used := self._used_by_all():
            return f"{self._listed(used)} alone, of which each task reads other rows"
        return f"none that all of {self.tasks} reach"

    def _tensors(self, weights: int) -> list[Tensor]:
        return [self._weights[number] for number in bits(weights)]

    def _listed(self, weights: int) -> str:
        found = self._tensors(weights)
        if self._names is None:
            return ", ".join(f"a weight of shape {tuple(weight.shape)}" for weight in found)
        return ", ".join(f"`{self._names[id(weight)]}`" for weight in found)


def is_present(loss: object) -> bool:
    """Return whether a loss trains its task: it has a graph and is neither 0 nor NaN. Waits for the device."""
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        return False
    value = loss.detach()
    return bool((value != 0).all() & ~torch.isnan(value).any())
