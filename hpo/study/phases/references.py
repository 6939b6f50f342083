"""The references: single-task networks, to which every score is relative, and other methods."""

from __future__ import annotations

from typing import ClassVar

from hpo.core.arm import REFERENCE
from hpo.core.trial import PlannedTrial
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import EQUAL, Plan


class References(StudyPhase):
    """Single-task networks and other methods on the search seed."""

    name: ClassVar[str] = "references"
    is_reference: ClassVar[bool] = True
    pool: ClassVar[str] = "search"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self.add(reference_trials(self.plan))

    def size(self) -> tuple[int, int]:
        """See `StudyPhase`."""
        return len(self._trials), len(self._trials)

    def describe(self) -> str:
        """See `StudyPhase`."""
        return f"{', '.join(self.plan.study.references)}; seed {self.plan.study.seed}"


def reference_trials(plan: Plan) -> list[PlannedTrial]:
    """Return the trials of single-task networks and other methods; equal weights belong to the static search.

    Single-task networks are trained with every set of arguments, since scores are relative to the best of them.
    """
    arms = [candidate for candidate in plan.reference_arms() if candidate != EQUAL]
    alone = [candidate for candidate in arms if candidate.arm.kind == REFERENCE]
    arms += [candidate.with_arguments(label) for label in list(plan.sets)[1:] for candidate in alone]
    return [plan.search_trial(References.name, candidate) for candidate in arms]
