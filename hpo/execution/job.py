"""Settings of workers that are the same for every trial of a launch, and the task that a worker is given."""

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
        resources: what one trial needs and may take.
        storage: address of the folder of the study's checkpoints.
        checkpoint_seconds: between two of them.
        target: the problem as ``package.module:Class``.
        together: trials that a worker is handed at most, to be trained at once.
        left_running: whether Ray goes on after the study, so that what it holds has to be given back.
    """

    resources: Resources
    storage: str
    checkpoint_seconds: float
    target: str
    together: int = 1
    left_running: bool = False


def worker_task(job: Job, cohort: Sequence[PlannedTrial], until: Sequence[int]) -> WorkerTask:
    """Trials as a worker reads them."""
    return WorkerTask(
        identities=[planned.config.identity for planned in cohort],
        cohort=[asdict(planned.config) for planned in cohort],
        until=list(until),
        target=job.target,
        import_paths=[path for path in dict.fromkeys([*sys.path, str(Path.cwd())]) if path],
        cpu=job.resources.cpu,
        gpu=job.resources.gpu,
        checkpoint_seconds=job.checkpoint_seconds,
    )
