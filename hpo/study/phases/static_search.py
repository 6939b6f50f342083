"""The static search: networks trained with constant weights, each at a point of the design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd

from hpo.compare import static_points
from hpo.core.arm import FULL
from hpo.core.trial import PlannedTrial, TrialConfig, TrialResult, TrialStatus
from hpo.study.halving import Halving
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import EQUAL, Candidate, Plan


class StaticSearch(StudyPhase):
    """Trains every point of the design; with `search.halving` only the best continue at each rung.

    Points around the first-step weights are known once these are: from the trials of the shortlist or, without one,
    from two trials of this phase.
    """

    name: ClassVar[str] = "static"
    pool: ClassVar[str] = "search"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        plan = self.plan
        self._candidates: dict[str, Candidate] = {}  # by arm
        self._points: dict[str, PlannedTrial] = {}  # by identity, equal weights among them
        self._halving = Halving([], plan.search_epochs, 2, 1)
        self._first_steps: list[PlannedTrial] = []  # that the points wait for
        if plan.is_centered:
            self._first_steps = [plan.search_trial(self.name, arm) for arm in plan.first_step_arms()]
            self.add([plan.search_trial(self.name, EQUAL), *([] if plan.study.shortlist else self._first_steps)])
        elif plan.study.static is not None:
            self._add_points(plan.static_points())

    def size(self) -> tuple[int, int]:
        """See `StudyPhase`."""
        if self.plan.study.static is None:
            return 0, 0
        own = len(self._first_steps) if self.plan.study.shortlist is None else 0
        count = 1 + self.plan.points + own + len(full_places(self.plan))
        return count, count

    @property
    def remaining(self) -> int:
        """See `StudyPhase`."""
        return self.size()[0] - len(self._trials) if self.plan.is_centered and not self._candidates else 0

    @property
    def most_epochs(self) -> int:
        """See `StudyPhase`."""
        full = len(full_places(self.plan))
        return (self.size()[0] - full) * self.plan.search_epochs + full * self.plan.epochs

    def describe(self) -> str:
        """See `StudyPhase`."""
        spec = self.plan.study
        if spec.static is None:
            return "off"
        design = "explicit points" if spec.static.explicit else spec.static.design
        if self.plan.is_centered:
            design += " around the first-step weights"
        rungs = f"; one in {spec.search.halving} continues at each rung" if spec.search.halving else ""
        count = len(full_places(self.plan))
        full = f"; {count} of them to the end too" if count else ""
        return f"{design}; seed {spec.seed}{rungs}{full}"

    def chosen(self, search: pd.DataFrame) -> list[Candidate]:
        """The best points of the search. See `StudyPhase`."""
        return [self._candidates[key] for key in static_points(search)["arm"].head(self.most_chosen)]

    @property
    def most_chosen(self) -> int:
        """See `StudyPhase`."""
        study = self.plan.study
        return min(study.confirm.top_static, 1 + self.plan.points) if study.static else 0

    def until(self, config: TrialConfig) -> int:
        """See `StudyPhase`."""
        return self._halving.until(config.identity) if config.identity in self._points else config.epochs

    def on_paused(self, identity: str, result: TrialResult) -> None:
        """See `StudyPhase`."""
        self._halving.pause(identity, result)

    def settle(self) -> list[PlannedTrial]:
        """Add the points once the first-step weights are known; at a rung, continue the best and stop the others."""
        if self.remaining and all(self.so_far.has_ended(planned) for planned in self._first_steps):
            self._add_points(self.plan.points_around(self._first_step_weights()))
        at_rung = self._halving.at_rung(self.so_far.results)
        stopped = {i: replace(result, status=TrialStatus.STOPPED) for i, result in at_rung.items()}
        scores = self.so_far.scores([(self._points[i], result) for i, result in stopped.items()]) if at_rung else None
        if scores is None:
            return []
        on, off = self._halving.decide({identity: scores[identity] for identity in at_rung})
        self.queue.extendleft(self._points[identity] for identity in reversed(on))
        for identity in off:
            self.so_far.record(identity, stopped[identity])
        return [self._points[identity] for identity in off]

    def _first_step_weights(self) -> list[list[float]]:
        found = [result.averages.get("geometric", {}) for _, result in self.so_far.ended(self._first_steps)]
        rows = [[w.get(task, np.nan) for task in self.plan.tasks] for w in found]
        return [row for row in rows if np.isfinite(row).all() and min(row) > 0]

    def _add_points(self, points: Sequence[Candidate]) -> None:
        plan = self.plan
        self._candidates = {candidate.arm.key: candidate for candidate in [EQUAL, *points]}
        trials = static_trials(plan, points)
        self._points = {planned.config.identity: planned for planned in trials}
        self._halving = halving(plan, trials)
        known = set(self._identities)
        every = [*trials, *full_trials(plan, points)]
        self.add(planned for planned in every if planned.config.identity not in known)


def static_trials(plan: Plan, points: Sequence[Candidate] | None = None) -> list[PlannedTrial]:
    """Return the trials of the points on the search seed; the first is equal weights. None if the search is off.

    Args:
        plan: the study's.
        points: without equal weights; default: those that are known beforehand.
    """
    if plan.study.static is None:
        return []
    known = plan.static_points() if points is None else points
    return [plan.search_trial(StaticSearch.name, candidate) for candidate in [EQUAL, *known]]


def full_trials(plan: Plan, points: Sequence[Candidate] | None = None) -> list[PlannedTrial]:
    """Return the trials of the points that are also trained to the end in a shortened search."""
    known = plan.static_points() if points is None else points
    arms = [
        known[place]._replace(arm=replace(known[place].arm, kind=FULL))
        for place in full_places(plan)
        if place < len(known)
    ]
    return [plan.search_trial(StaticSearch.name, candidate, plan.epochs) for candidate in arms]


def full_places(plan: Plan) -> list[int]:
    """Return the places of points that are also trained to the end in a shortened search, to measure its order."""
    if plan.search_epochs == plan.epochs or plan.study.static is None:
        return []
    count = min(plan.study.search.full, plan.points)
    return sorted({round(place) for place in np.linspace(0, plan.points - 1, count)}) if count else []


def halving(plan: Plan, points: Sequence[PlannedTrial]) -> Halving:
    """Return the successive halving of the points; without `search.halving` all are trained to the end."""
    eta = plan.study.search.halving
    identities = [planned.config.identity for planned in points if planned.arm != EQUAL.arm.key] if eta else []
    return Halving(identities, plan.search_epochs, eta or 2, plan.study.confirm.top_static)
