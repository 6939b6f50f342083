"""Settings of workers that are the same for every trial of a launch, and a worker's task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hpo.core.trial import PlannedTrial, WorkerTask
from hpo.study.spec import Resources


@dataclass(frozen=True)
class Job:
    """Settings of workers that are the same for every trial of a launch.

    Attributes:
        resources: of one trial.
        storage: address of the folder of the study's checkpoints.
        checkpoint_seconds: seconds between two checkpoints.
        target: the problem as ``package.module:Class``.
        together: maximum number of trials that a worker trains at once.
        left_running: whether Ray keeps running after the study, so that its objects have to be released.
    """

    resources: Resources
    storage: str
    checkpoint_seconds: float
    target: str
    together: int = 1
    left_running: bool = False


def worker_task(job: Job, cohort: Sequence[PlannedTrial], until: Sequence[int]) -> WorkerTask:
    """Return the task of a worker that trains these trials."""
    return WorkerTask(
        identities=[planned.config.identity for planned in cohort],
        cohort=[asdict(planned.config) for planned in cohort],
        until=list(until),
        target=job.target,
        import_paths=[path for path in dict.fromkeys([*sys.path, str(Path.cwd())]) if path],
        cpu=job.resources.cpu,
        gpu=job.resources.gpu,
        checkpoint_seconds=job.checkpoint_seconds,
        folder=str(Path.cwd()),
    )
