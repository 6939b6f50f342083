"""Attempts at cohorts: which Tune trial runs which trials, and which run again when a worker dies. Uses no Ray."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hpo.core.errors import InputError
from hpo.core.text import one_line
from hpo.core.trial import Event, EventKind, PlannedTrial, TrialResult, TrialStatus
from hpo.execution.events import Listener
from hpo.execution.job import Job, worker_task
from hpo.study.schedule import Schedule

RETRIES = 2  # of a single trial whose worker or node died without progress since the last death
TOGETHER = 1  # deaths without progress after which a cohort is handed out unchanged; after more, in halves


@dataclass
class Attempt:
    """A Tune trial: one attempt at a cohort."""

    cohort: list[PlannedTrial]
    deaths: int = 0  # of consecutive attempts at these trials without progress
    over: set[str] = field(default_factory=set)  # identities of its trials that have ended or paused
    trial: Any = None
    begun: float = math.inf  # on the monotonic clock
    late: bool = False


def next_attempts(attempt: Attempt, left: Sequence[PlannedTrial]) -> list[tuple[list[PlannedTrial], int]]:
    """Choose the cohorts to hand out after an attempt whose worker died, each with its number of deaths.

    It is unknown which of several trials killed the worker. They are tried once more together, then in halves, and
    so on. The count restarts for a trial that is alone: it fails only if its worker dies repeatedly.

    Args:
        attempt: the attempt; its ``deaths`` include this one.
        left: its trials that have no result.

    Returns:
        An empty list if the worker of a single trial has died too often.
    """
    if len(attempt.cohort) == 1:
        return [(list(left), attempt.deaths)] if attempt.deaths <= RETRIES else []
    if len(left) > 1 and attempt.deaths <= TOGETHER and not attempt.late:
        return [(list(left), attempt.deaths)]
    half = -(-len(left) // 2)
    groups = [list(group) for group in (left[:half], left[half:]) if group]
    return [(group, attempt.deaths if len(group) > 1 else 0) for group in groups]


class Attempts:
    """The attempts that run, shared by the searcher and the callback: which Tune trial trains which cohort.

    Args:
        schedule: what to run; gets the results.
        job: what else workers need.
        listeners: notified of every trial.
        slots: the number of trials that the cluster can run at once.
    """

    def __init__(self, schedule: Schedule, job: Job, listeners: Sequence[Listener], slots: int) -> None:
        self.schedule, self.job, self.listeners, self.slots = schedule, job, listeners, slots
        self.attempts: dict[str, Attempt] = {}  # by Tune's id
        self.again: deque[tuple[list[PlannedTrial], int]] = deque()  # with the deaths of their workers
        self.furthest: dict[str, int] = {}  # steps by identity
        self.errors: list[str] = []
        self.paused: dict[str, TrialResult] = {}  # with their trajectories
        self.noticed: set[str] = set()  # messages of workers about cohorts, each reported once
        self.stopping = False
        self.killed = False  # we have killed the workers, so their deaths do not count
        self.input_error: InputError | None = None

    @property
    def enough_waiting(self) -> bool:
        """Return whether enough cohorts wait. Tune keeps a worker for the next cohort only if that cohort is waiting
        when the last one ends, so each slot needs one. More would hand out trials before the results they depend on.
        """
        return sum(attempt.begun == math.inf for attempt in self.attempts.values()) > self.slots

    def hand_out(self, trial_id: str, cohort: list[PlannedTrial], deaths: int = 0) -> dict[str, Any]:
        """Register an attempt at a cohort; return its config for the worker."""
        self.attempts[trial_id] = Attempt(cohort, deaths)
        return asdict(worker_task(self.job, cohort, [self.schedule.until(planned.config) for planned in cohort]))

    def begin(self, trial: Any) -> None:
        """Record that a worker has started a cohort."""
        attempt = self.attempts[trial.trial_id]
        attempt.trial, attempt.begun = trial, time.monotonic()
        for planned in attempt.cohort:
            self.schedule.begun(planned.config.identity)
            self.tell("trial_started", planned)

    def result(self, trial_id: str, report: dict[str, Any]) -> None:
        """Process a worker's report, and remove the events from it, because Tune keeps it for the whole study."""
        attempt = self.attempts.get(trial_id)
        cohort = {planned.config.identity: planned for planned in attempt.cohort} if attempt else {}
        for event in report.pop("events", None) or []:
            if event.kind is EventKind.ALONE and event.content not in self.noticed:
                self.noticed.add(event.content)
                self.tell("noticed", event.content)
            planned = cohort.get(event.identity)
            if planned is not None and attempt is not None:
                self._take(attempt, planned, event)

    def _take(self, attempt: Attempt, planned: PlannedTrial, event: Event) -> None:
        if event.kind is EventKind.EPOCH:
            self.got_to(attempt, event.identity, event.content.steps)
            self.tell("trial_reported", planned, event.content)
        elif event.kind is EventKind.RESUMED:
            self.got_to(attempt, event.identity, event.content)
        elif event.kind is EventKind.RESULT:
            attempt.over.add(event.identity)
            attempt.deaths = 0
            self.end(planned, event.content)

    def got_to(self, attempt: Attempt, identity: str, steps: int) -> None:
        """Record the step of a trial; if it is further than before, reset its count of deaths."""
        if steps > self.furthest.get(identity, 0):
            self.furthest[identity] = steps
            attempt.deaths = 0

    def end(self, planned: PlannedTrial, result: TrialResult) -> None:
        """Record that a trial has ended, with any status, or paused."""
        identity = planned.config.identity
        if identity in self.schedule.results:
            return
        self.furthest.pop(identity, None)
        try:
            self.schedule.finished(identity, replace(result, trajectory={}))  # only MLflow needs the trajectory
        except InputError as error:  # of the next proposals; the result must not be lost
            self.stop(error)
        if result.status is TrialStatus.PAUSED:
            self.paused[identity] = result
            self.tell("trial_paused", planned)
        else:
            self.tell("trial_ended", planned, result)
        for stopped in self.schedule.stopped():
            mine = self.paused.pop(stopped.config.identity)
            self.tell("trial_ended", stopped, replace(mine, status=TrialStatus.STOPPED))

    def stop(self, error: InputError) -> None:
        """End the study as a signal does; `run` then raises the error."""
        self.input_error, self.stopping = error, True

    def over(self, trial_id: str, error: str) -> None:
        """End an attempt. Its trials without a result go to the next worker, unless workers died too often."""
        attempt = self.attempts.pop(trial_id, None)
        if attempt is None or self.killed:
            return
        cohort = [planned for planned in attempt.cohort if planned.config.identity not in attempt.over]
        left = [planned for planned in cohort if planned.config.identity not in self.schedule.results]
        attempt.deaths += 1
        groups = next_attempts(attempt, left) if left else []
        for planned in left:
            if groups:
                self.schedule.interrupted(planned.config.identity)
            else:
                self.end(planned, TrialResult(TrialStatus.FAILED, error=_death(error)))
        self.again.extend(groups)

    def all_over(self, error: str) -> None:
        """End every attempt, because Tune has given up."""
        self.tell("noticed", "a node died with a report on its way; every trial continues from its last checkpoint")
        for trial_id in list(self.attempts):
            self.over(trial_id, error)

    def tell(self, event: str, *arguments: Any) -> None:
        """Call listeners and keep their exceptions, on which Tune would end the study."""
        for listener in self.listeners:
            try:
                getattr(listener, event)(*arguments)
            except Exception as error:
                self.errors.append(f"{type(listener).__name__}.{event}: {one_line(error)}")


_CAUSES = {  # part of Ray's error -> a short description
    "running low on memory": "its node ran low on memory, and Ray ended it",
    "node died": "its node died",
    "terminated unexpectedly": "its node died",
    "connection error code 2": "its process was killed (SIGKILL, as when out of memory), crashed or ended itself",
}


def _death(error: str) -> str:
    """Return the cause of a worker's repeated deaths: one line, then Ray's full error."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()]
    why = next((words for text, words in _CAUSES.items() if text in error), lines[-1] if lines else "no reason given")
    return f"the worker ended {RETRIES + 1} times without progress: {why}\n\n{error}"
