"""The confirm phase: selected arms on seeds that no search has used, evaluated on the test split."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

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
        arms *= 2 if self.plan.is_tuned else 1  # with the problem's own arguments, and with the arm's best
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
        """Plan the arms that depend on the search, once it has ended. See `StudyPhase`."""
        if not self._has_chosen and (arms := self._arms()) is not None:
            self._has_chosen = True
            self.add(confirm_trials(self.plan, arms))
        return []

    def _arms(self) -> list[Candidate] | None:
        """The arms that the phases choose, with the sets of arguments that they choose for all arms."""
        chosen = self.so_far.chosen()
        if chosen is None:
            return None
        arms = [*self.plan.fixed_arms(), *chosen] if self.plan.is_tuned else chosen
        for phase in self.so_far.phases:
            versions = [phase.versions(arm) for arm in arms]
            arms = [arm for found in versions for arm in found or []]
            if None in versions:
                return None
        return arms


def confirm_fixed(plan: Plan) -> list[PlannedTrial]:
    """Return the trials that do not depend on the search, seed by seed."""
    return confirm_trials(plan, plan.fixed_arms())


def confirm_trials(plan: Plan, arms: Iterable[Candidate]) -> list[PlannedTrial]:
    """Return the trials of arms on the confirm seeds, seed by seed."""
    arms = list(arms)
    return [plan.confirm_trial(Confirm.name, arm, seed) for seed in plan.study.confirm_seeds for arm in arms]
