"""Measure in a worker how many trials to train at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from hpo.core.trial import PlannedTrial, WorkerTask
from hpo.execution.job import Job, worker_task
from hpo.execution.problem_upload import packed


class CohortSizing:
    """A worker that measures how many trials to train at once, while the driver continues.

    Args:
        job: as for `run`.
        cohort: trials of one seed, representative of those to be trained.
        most: the largest number to try.
    """

    def __init__(self, job: Job, cohort: Sequence[PlannedTrial], most: int) -> None:
        def measure(task: WorkerTask, most: int, problem: bytes) -> tuple[int, str]:  # by value, as `_trainable`
            from hpo.training.worker import size_cohort

            if problem:
                from hpo.execution.problem_upload import unpack

                unpack(task.target, problem)
            return size_cohort(task, most)

        resources = job.resources
        remote: Any = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=0)(measure)
        self._answer = remote.remote(worker_task(job, cohort, []), most, packed(job.target))

    def result(self) -> tuple[int, str]:
        """Wait for the worker; return the number and its reason. If the worker died, the number was too large."""
        try:
            size, why = ray.get(self._answer)
        except RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return 1, f"one at a time, since the measurement failed: {lines[-1] if lines else type(error).__name__}"
        return int(size), str(why)
