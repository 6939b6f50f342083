"""Trials of a cohort that are trained one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from hpo.core.trial import EpochReport, TrialConfig, TrialResult
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem
from hpo.training.cohort_members import CohortCallbacks, CohortMember
from hpo.training.trial_loop import run_trial


def one_by_one(places: Sequence[CohortMember], problem: Problem, device: torch.device, ear: CohortCallbacks) -> None:
    """Train each trial by itself, as `run_trial` does, and tell how it goes."""
    for place in places:
        config = place.config
        result = run_trial(
            config,
            problem,
            lambda report, config=config: ear.epochs([(config, report)]),  # type: ignore[misc]
            device,
            place.checkpoints,
            partial(ear.resumed, config),
            place.until,
        )
        ear.ended(config, result)


class _Relay:
    """An `CohortCallbacks` on our side of the boundary to the user's code."""

    def __init__(self, ear: CohortCallbacks, boundary: Boundary) -> None:
        self._ear, self._boundary = ear, boundary

    def resumed(self, config: TrialConfig, steps: int) -> None:
        self._boundary.tell(self._ear.resumed, config, steps)

    def epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        self._boundary.tell(self._ear.epochs, reports)

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        self._boundary.tell(self._ear.ended, config, result)

    def alone(self, count: int, why: str) -> None:
        self._boundary.tell(self._ear.alone, count, why)
