"""The confirm phase: selected arms on seeds that no search has used, evaluated on the test split."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import pandas as pd

from hpo.compare import best_trial, static_points
from hpo.core.arm import Arm
from hpo.core.trial import PlannedTrial
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import EQUAL, Candidate, Plan


class Confirm(StudyPhase):
    """Trains arms that need no search at once, and the arms that the search selects once it has ended."""

    name: ClassVar[str] = "confirm"
    is_search: ClassVar[bool] = False
    pool: ClassVar[str] = "confirm"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self._fixed = confirm_fixed(self.plan)
        self._chosen: list[PlannedTrial] | None = None
        self.queue.extend(self._fixed)

    def trials(self) -> Sequence[PlannedTrial]:
        """See `StudyPhase`."""
        return [*self._fixed, *(self._chosen or [])]

    def size(self) -> tuple[int, int]:
        """Return the maximum, since arms may coincide. See `StudyPhase`."""
        study = self.plan.study
        chosen = min(study.confirm.top_static, 1 + self.plan.points)
        chosen += len(study.gradnorm.recipes) * (1 + len(study.confirm.averages))
        arms = len(self.plan.fixed_arms()) + chosen
        return arms, arms * study.seeds

    def describe(self) -> str:
        """See `StudyPhase`."""
        seeds = self.plan.study.confirm_seeds
        return f"at most {self.size()[0]} arms on seeds {seeds.start} to {seeds.stop - 1}; test split"

    @property
    def total(self) -> int:
        """See `StudyPhase`."""
        return self.size()[1] if self._chosen is None else super().total

    def settle(self) -> list[PlannedTrial]:
        """Plan the arms that depend on the search, once it has ended."""
        if self._chosen is None and (search := self.so_far.search()) is not None:
            self._chosen = confirm_chosen(self.plan, search)
            self.queue.extend(self._chosen)
        return []


def confirm_fixed(plan: Plan) -> list[PlannedTrial]:
    """Return the trials that do not depend on the search, seed by seed."""
    return _confirm(plan, plan.fixed_arms())


def confirm_chosen(plan: Plan, search: pd.DataFrame) -> list[PlannedTrial]:
    """Return the trials that the search selects: the best static points, the best alpha and its E_t[w], seed by seed.

    Args:
        plan: the study's.
        search: the scored trials of the search seed, best first (`hpo.compare.Comparison.search`).
    """
    best_points = [Arm.parse(key) for key in static_points(search)["arm"].head(plan.study.confirm.top_static)]
    arms = [EQUAL if arm == EQUAL.arm else plan.point("static", arm.number) for arm in best_points]
    for recipe in plan.study.gradnorm.recipes:
        best = best_trial(search[(search["kind"] == "gradnorm") & (search["recipe"] == recipe)])
        if best is not None:
            arms += plan.gradnorm_arms(recipe, best)
    return _confirm(plan, arms)


def _confirm(plan: Plan, arms: Iterable[Candidate]) -> list[PlannedTrial]:
    arms = list(arms)
    return [plan.confirm_trial(Confirm.name, arm, seed) for seed in plan.study.confirm_seeds for arm in arms]
