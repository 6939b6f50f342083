"""What workers need to know beside a trial's config."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpo.core.trial import PlannedTrial
from hpo.study.spec import Resources


@dataclass(frozen=True)
class Job:
    """What workers need to know beside a trial's config.

    Attributes:
        resources: what one trial needs and may take.
        storage: address of the folder of the study's checkpoints.
        checkpoint_seconds: between two of them.
        target: the problem as ``package.module:Class``.
        together: trials that a worker is handed at most, to be trained at once.
    """

    resources: Resources
    storage: str
    checkpoint_seconds: float
    target: str
    together: int = 1


def worker_config(job: Job, cohort: Sequence[PlannedTrial], until: Sequence[int]) -> dict[str, Any]:
    """Trials as a worker reads them; not the storage's address, which may hold a secret."""
    return {
        "until": list(until),
        "identities": [planned.config.identity for planned in cohort],
        "cohort": [asdict(planned.config) for planned in cohort],
        "target": job.target,
        "import_paths": [path for path in dict.fromkeys([*sys.path, str(Path.cwd())]) if path],
        "cpu": job.resources.cpu,
        "gpu": job.resources.gpu,
        "checkpoint_seconds": job.checkpoint_seconds,
    }
