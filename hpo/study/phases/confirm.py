"""The confirm phase: selected arms on seeds that no search has used, evaluated on the test split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import pandas as pd

from hpo.core.trial import PlannedTrial
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import Candidate, Plan


class Confirm(StudyPhase):
    """Trains arms that need no search at once, and the arms that the search selects once it has ended."""

    name: ClassVar[str] = "confirm"
    is_search: ClassVar[bool] = False
    pool: ClassVar[str] = "confirm"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self._has_chosen = False
        self.add(confirm_fixed(self.plan))

    def size(self) -> tuple[int, int]:
        """Return the maximum, since arms may coincide. See `StudyPhase`."""
        arms = len(self.plan.fixed_arms()) + sum(phase.most_chosen for phase in self.so_far.phases)
        return arms, arms * self.plan.study.seeds

    def describe(self) -> str:
        """See `StudyPhase`."""
        seeds = self.plan.study.confirm_seeds
        return f"at most {self.size()[0]} arms on seeds {seeds.start} to {seeds.stop - 1}; test split"

    @property
    def total(self) -> int:
        """See `StudyPhase`."""
        return super().total if self._has_chosen else self.size()[1]

    def settle(self) -> list[PlannedTrial]:
        """Plan the arms that depend on the search, once it has ended."""
        if not self._has_chosen and (search := self.so_far.search()) is not None:
            self._has_chosen = True
            self.add(confirm_chosen(self.plan, self.so_far.phases, search))
        return []


def confirm_fixed(plan: Plan) -> list[PlannedTrial]:
    """Return the trials that do not depend on the search, seed by seed."""
    return _confirm(plan, plan.fixed_arms())


def confirm_chosen(plan: Plan, phases: Iterable[StudyPhase], search: pd.DataFrame) -> list[PlannedTrial]:
    """Return the trials of the arms that the phases choose, seed by seed.

    Args:
        plan: the study's.
        phases: all of the study.
        search: the scored trials of the search seed, best first.
    """
    arms: list[Candidate] = []
    for phase in phases:
        chosen = phase.chosen(search)
        arms = [arm for arm in arms if not any(_trains_alike(arm, other) for other in chosen)] + chosen
    return _confirm(plan, arms)


def _trains_alike(one: Candidate, other: Candidate) -> bool:
    """Return whether two arms are one by other names, of which that of the later phase is kept."""
    return (one.method, one.settings) == (other.method, other.settings)


def _confirm(plan: Plan, arms: Iterable[Candidate]) -> list[PlannedTrial]:
    arms = list(arms)
    return [plan.confirm_trial(Confirm.name, arm, seed) for seed in plan.study.confirm_seeds for arm in arms]
