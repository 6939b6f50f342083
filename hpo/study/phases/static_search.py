"""The static search: networks trained with constant weights, each at a point of the design."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd

from hpo.compare import static_points
from hpo.core.arm import FULL, Arm
from hpo.core.trial import PlannedTrial, TrialConfig, TrialResult, TrialStatus
from hpo.study.halving import Halving
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import EQUAL, Candidate, Plan


class StaticSearch(StudyPhase):
    """Trains every point of the design; with `search.halving` only the best continue at each rung."""

    name: ClassVar[str] = "static"
    pool: ClassVar[str] = "search"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        points = static_trials(self.plan)
        self._full = full_trials(self.plan)
        self._trials = points + self._full
        self._points = {planned.config.identity: planned for planned in points}
        self._halving = halving(self.plan, points)
        self.queue.extend(self._trials)

    def trials(self) -> Sequence[PlannedTrial]:
        """See `StudyPhase`."""
        return self._trials

    def size(self) -> tuple[int, int]:
        """See `StudyPhase`."""
        return len(self._trials), len(self._trials)

    @property
    def most_epochs(self) -> int:
        """See `StudyPhase`."""
        return sum(planned.config.epochs for planned in self._trials)

    def describe(self) -> str:
        """See `StudyPhase`."""
        spec = self.plan.study
        if spec.static is None:
            return "off"
        design = "explicit points" if spec.static.explicit else spec.static.design
        rungs = f"; one in {spec.search.halving} continues at each rung" if spec.search.halving else ""
        full = f"; {len(self._full)} of them to the end too" if self._full else ""
        return f"{design}; seed {spec.seed}{rungs}{full}"

    def chosen(self, search: pd.DataFrame) -> list[Candidate]:
        """The best points of the search. See `StudyPhase`."""
        best = [Arm.parse(key) for key in static_points(search)["arm"].head(self.most_chosen)]
        return [EQUAL if arm == EQUAL.arm else self.plan.point("static", arm.number) for arm in best]

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
        """Once all remaining points have reached their rung, continue the best and stop the others."""
        at_rung = self._halving.at_rung(self.so_far.results)
        stopped = {i: replace(result, status=TrialStatus.STOPPED) for i, result in at_rung.items()}
        scores = self.so_far.scores([(self._points[i], result) for i, result in stopped.items()]) if at_rung else None
        if scores is None:
            return []
        on, off = self._halving.decide({identity: scores[identity] for identity in at_rung})
        self.queue.extendleft(self._points[identity] for identity in reversed(on))
        self.so_far.results.update({identity: stopped[identity] for identity in off})
        return [self._points[identity] for identity in off]


def static_trials(plan: Plan) -> list[PlannedTrial]:
    """Every point of the design on the search seed; the first is equal weights. None if the search is off."""
    if plan.study.static is None:
        return []
    arms = [EQUAL, *(plan.point("static", number) for number in range(1, plan.points + 1))]
    return [plan.search_trial(StaticSearch.name, candidate) for candidate in arms]


def full_trials(plan: Plan) -> list[PlannedTrial]:
    """Return the points that are also trained to the end in a shortened search, to measure how good its order is."""
    if plan.search_epochs == plan.epochs:
        return []
    count = min(plan.study.search.full, plan.points)
    chosen = sorted({round(place) for place in np.linspace(0, plan.points - 1, count)}) if count else []
    arms = [plan.point(FULL, place + 1) for place in chosen]
    return [plan.search_trial(StaticSearch.name, candidate, plan.epochs) for candidate in arms]


def halving(plan: Plan, points: Sequence[PlannedTrial]) -> Halving:
    """Return the successive halving of the points; without `search.halving` all are trained to the end."""
    eta = plan.study.search.halving
    identities = [planned.config.identity for planned in points if planned.arm != EQUAL.arm.key] if eta else []
    return Halving(identities, plan.search_epochs, eta or 2, plan.study.confirm.top_static)
