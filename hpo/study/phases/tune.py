"""Tuning: the arms that the confirm phase trains, each with every set of the problem's arguments."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from hpo.core.arm import REFERENCE, Arm
from hpo.core.trial import PlannedTrial
from hpo.study.argument_sets import OWN
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import Candidate


class Tune(StudyPhase):
    """Trains the arms that the phases before it choose, and those that need no search, with all sets of arguments.

    So each arm has the same number of trials to find its own best arguments. The confirm phase trains it with these
    and with the problem's own.
    """

    name: ClassVar[str] = "tune"
    chooses: ClassVar[bool] = False
    pool: ClassVar[str] = "tune"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self._has_arms = not self.plan.is_tuned
        self._best: dict[str, str] | None = None  # the best set of each arm

    def size(self) -> tuple[int, int]:
        """Return the maximum, since arms may coincide and many trials have run before. See `StudyPhase`."""
        if not self.plan.is_tuned:
            return 0, 0
        fixed = [arm for arm in self.plan.fixed_arms() if arm.arm.kind != REFERENCE]
        arms = len(fixed) + sum(phase.most_chosen for phase in self.so_far.phases)
        return arms, arms * len(self.plan.sets) * self._seeds

    def describe(self) -> str:
        """See `StudyPhase`."""
        if not self.plan.is_tuned:
            return "off"
        names, more = ", ".join(self.plan.sets[OWN].values), self._seeds - 1
        seeds = f"seed {self.plan.study.seed}" + (f" and {more} more" if more else "")
        return f"these arms with each of {len(self.plan.sets)} sets of {names}; {seeds}"

    @property
    def _seeds(self) -> int:
        return self.plan.study.tune.seeds if self.plan.study.tune else 1

    @property
    def remaining(self) -> int:
        """See `StudyPhase`."""
        return self.size()[1] if not self._has_arms and self.so_far.runs else 0

    def settle(self) -> list[PlannedTrial]:
        """Plan its trials once the arms are chosen. See `StudyPhase`."""
        if not self._has_arms and (chosen := self.so_far.chosen()) is not None:
            self._has_arms = True
            arms = [arm for arm in self.plan.fixed_arms() if arm.arm.kind != REFERENCE] + chosen
            tuned = [arm.with_arguments(label) for label in self.plan.sets for arm in arms]  # cohorts share a set
            self.add(self.plan.race_trial(self.name, arm, place) for place in range(self._seeds) for arm in tuned)
        return []

    def versions(self, candidate: Candidate) -> list[Candidate] | None:
        """The arm with the problem's own arguments and with its best ones. See `StudyPhase`."""
        if not self.plan.is_tuned:
            return [candidate]
        if self._best is None:
            self._best = self._find_best()
        if self._best is None:
            return None
        best = self._best.get(candidate.arm.key, OWN)
        return [candidate] if best == OWN else [candidate, candidate.with_arguments(best)]

    def _find_best(self) -> dict[str, str] | None:
        """Return the label of each arm's best set by mean validation score; ``None`` while a trial has not ended."""
        if not self._has_arms or not all(map(self.so_far.has_ended, self._trials)):
            return None
        scores = self.so_far.race(self._trials)
        if scores is None:
            return None
        found: dict[str, tuple[float, str]] = {}
        for key, score in scores.mean(skipna=False).items():  # NaN where a seed has diverged
            arm = Arm.parse(str(key))
            if np.isfinite(score) and score < found.get(arm.base.key, (np.inf, ""))[0]:
                found[arm.base.key] = float(score), arm.arguments
        return {arm: label for arm, (_, label) in found.items()} | self.so_far.best_references()
