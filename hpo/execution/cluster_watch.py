"""Check the cluster every few seconds while a study runs: nodes that join or leave, trials over their limit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from hpo.core.trial import TrialResult, TrialStatus
from hpo.execution.attempts import Attempts
from hpo.execution.ray_cluster import alive_nodes, cluster_words, slots

LOOK_SECONDS = 5.0  # between two checks of the nodes


class ClusterWatch:
    """Watches the cluster for the running attempts.

    Args:
        attempts: notified of how many trials the cluster can hold, and of what has ended.
    """

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        self._looked, self._nodes = time.monotonic(), set(alive_nodes())

    def look(self, trials: Sequence[Any]) -> None:
        """Check the nodes, trials that exceed their limit, and attempts that Tune has ended without a callback.

        Args:
            trials: Tune's.
        """
        attempts = self._attempts
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        attempts.tell("time_passed")
        attempts.slots = slots(attempts.job.resources)
        nodes = set(alive_nodes())
        left, joined = len(self._nodes - nodes), len(nodes - self._nodes)
        if left or joined:
            self._nodes = nodes
            waiting = "" if attempts.slots else ", none of which can hold a trial: waiting for one"
            attempts.tell(
                "noticed", f"the cluster has changed: {left} left, {joined} joined; {cluster_words()}{waiting}"
            )
        self._stop_late()
        for trial in trials:
            if trial.trial_id in attempts.attempts and trial.is_finished():
                attempts.over(trial.trial_id, "Tune could not start it")

    def _stop_late(self) -> None:
        limit = self._attempts.job.resources.minutes
        for attempt in list(self._attempts.attempts.values()):
            if limit is None or time.monotonic() - attempt.begun < 60 * limit * len(attempt.cohort):
                continue
            attempt.late = True  # the cohort continues in halves, until the slow trial is alone
            for planned in attempt.cohort if len(attempt.cohort) == 1 else []:
                text = f"it took more than {limit:g} minutes, the limit that resources.minutes sets, and was stopped"
                self._attempts.end(planned, TrialResult(TrialStatus.FAILED, error=text))
            actor = attempt.trial.temporary_state.ray_actor
            if actor is not None:
                ray.kill(actor)  # it may hang forever; Tune then reports the end of the attempt
