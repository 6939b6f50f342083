"""Trials of a cohort that are trained one after another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

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
