"""The driver's writer thread: it writes trials to MLflow through an outbox on disk, so that a crash loses nothing."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from hpo.core.errors import LaunchLostError, TrackingError
from hpo.core.trial import EpochReport, PlannedTrial, TrialResult
from hpo.tracking.backend import check_answers
from hpo.tracking.experiment import OpenRun, StudyExperiment
from hpo.tracking.experiment_base import now
from hpo.tracking.outbox import EndedTrial, Outbox

FLUSH_SECONDS = 1.0  # between two checks for reports of running trials
FLUSH_PACE = 20  # pause between rounds, in durations of a round: each trial of a cohort has its own run
BEAT_SECONDS = 10.0  # between two heartbeats
AWAY_SECONDS = 3.0  # between two attempts to reach a backend that does not respond
CLOSE_SECONDS = 60.0  # limit for delivering the remaining trials

Scores = Mapping[str, Mapping[str, float]]  # by identity and name of the metric


@dataclass
class _Open:
    """A trial that is running or has ended in this launch, and the part of it that MLflow holds."""

    planned: PlannedTrial
    started: int  # milliseconds
    epochs: list[EpochReport] = field(default_factory=list)
    run: OpenRun | None = None
    written: int = 0  # of the epochs
    flushed: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict)


class Heartbeat:
    """Send a heartbeat of a launch every few seconds while the block runs, from a thread of its own.

    Args:
        tracking: the experiment.
        launch: the parent run.

    Attributes:
        lost: set once another launch has taken over the study.
    """

    def __init__(self, tracking: StudyExperiment, launch: str) -> None:
        self._tracking, self._launch = tracking, launch
        self.lost: LaunchLostError | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop without waiting for a pending request."""
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._tracking.beat(self._launch)
            except LaunchLostError as error:
                self.lost = error
                return
            except Exception:  # the backend is unavailable; the writer reports it
                continue


class MlflowWriter:
    """A `hpo.execution.events.Listener` that writes trials to MLflow from one thread; it never raises.

    A trial that ends is in the outbox before the driver continues, and is delivered to MLflow, in order, when the
    backend responds. Trials that remain at the end wait in the outbox for the next command.

    Args:
        tracking: the experiment.
        launch: the parent run.
        outbox: of the study.
        delivered: called with the identity of each trial that MLflow holds completely.
        scores: returns the scores of those trials that have any yet, to be written with their results; called in the
            writer's thread.
    """

    def __init__(
        self,
        tracking: StudyExperiment,
        launch: str,
        outbox: Outbox,
        delivered: Callable[[str], object] = str,
        scores: Callable[[Sequence[PlannedTrial]], Scores] = lambda _: {},
    ) -> None:
        self._tracking, self._launch, self._outbox, self._delivered = tracking, launch, outbox, delivered
        self._scores_of = scores
        self._running: dict[str, _Open] = {}
        self._ended: deque[tuple[EndedTrial, _Open]] = deque()
        self._away_until, self._flush_from = 0.0, 0.0
        self._closing = threading.Event()
        self.faults = 0
        self.last_fault, self.unscored = "", ""  # why the last entry, or the last score, was not written
        self.lost: LaunchLostError | None = None  # another launch owns the study: write nothing more
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def trial_started(self, planned: PlannedTrial) -> None:
        """See `Listener`."""
        self._running.setdefault(planned.config.identity, _Open(planned, now()))

    def trial_reported(self, planned: PlannedTrial, report: EpochReport) -> None:
        """See `Listener`."""
        trial = self._running.get(planned.config.identity)
        if trial is not None and (not trial.epochs or report.epoch > trial.epochs[-1].epoch):  # a resumed one repeats
            trial.epochs.append(report)

    def trial_paused(self, planned: PlannedTrial) -> None:
        """Keep the run of a paused trial open; see `Listener`."""

    def trial_ended(self, planned: PlannedTrial, result: TrialResult) -> None:
        """See `Listener`."""
        trial = self._running.pop(planned.config.identity, None) or _Open(planned, now())
        entry = EndedTrial(planned, self._launch, trial.started, now(), result, trial.epochs)
        try:
            entry = self._outbox.add(entry)
        except OSError as error:  # MLflow may still accept it
            self._fault(f"{error.filename or self._outbox.folder} cannot be written: {error.strerror}")
        except Exception as error:  # any exception of pandas or pyarrow
            self._fault(f"{self._outbox.folder} cannot be written: {type(error).__name__}: {error}")
        self._ended.append((entry, trial))

    def noticed(self, text: str) -> None:
        """Do nothing: MLflow does not record it. See `Listener`."""

    def time_passed(self) -> None:
        """Do nothing: the writer has its own thread. See `Listener`."""

    def close(self) -> list[EndedTrial]:
        """Write the remaining trials and close the runs of unfinished ones. Return what MLflow did not accept."""
        self._closing.set()
        self._thread.join(CLOSE_SECONDS + 30)
        return [entry for entry, _ in list(self._ended)]

    def _work(self) -> None:
        while not self._closing.wait(FLUSH_SECONDS) and self.lost is None:
            if time.monotonic() >= self._away_until:
                with self._noted():
                    _ = self._flush() and self._deliver()
        if self.lost is not None:
            return
        deadline = time.monotonic() + CLOSE_SECONDS
        with self._noted():
            while not self._deliver(deadline) and self.lost is None and time.monotonic() < deadline:
                time.sleep(1.0)  # it refused; it may recover
        if self.lost is None:
            self._kill_open()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Write until the end. A fault of our own must not end the thread, since its trials would be lost."""
        try:
            yield
        except LaunchLostError as error:
            self.lost = error
        except Exception as error:
            self._fault(f"{type(error).__name__}: {error}")

    def _flush(self) -> bool:
        """Write the epochs of running trials; return false if the backend is unavailable."""
        begin = time.monotonic()
        if begin < self._flush_from:
            return True
        for trial in list(self._running.values()):
            written = len(trial.epochs)
            if trial.run is not None and written == trial.written:
                continue
            if time.monotonic() - trial.flushed < FLUSH_SECONDS:
                continue
            trial.flushed = time.monotonic()
            if not self._done(partial(self._write_epochs, trial)) and self._away():
                return False
        self._flush_from = time.monotonic() + FLUSH_PACE * (time.monotonic() - begin)
        return True

    def _write_epochs(self, trial: _Open) -> None:
        trial.run = trial.run or self._tracking.open(trial.planned, self._launch, trial.started)
        count = len(trial.epochs)
        self._tracking.write_epochs(trial.run, trial.planned, trial.epochs[trial.written : count])
        trial.written = count

    def _deliver(self, deadline: float = math.inf) -> bool:
        """Write the trials that have ended; return false if any remains."""
        waiting = len(self._ended)  # those that end while these are scored come next time, with their own scores
        self._score()
        for _ in range(waiting):
            if time.monotonic() > deadline:
                return False
            entry, trial = self._ended[0]
            if self._done(partial(self._tracking.write, entry, trial.run, trial.written, trial.scores)):
                self._ended.popleft()  # first: a failure below must not delay other trials
                self._outbox.remove(entry)
                self._delivered(entry.planned.config.identity)
            elif self._away():
                return False
            else:
                self._ended.rotate(-1)  # if the entry is at fault, continue with the next ones
        return not self._ended

    def _score(self) -> None:
        """Score the trials that have ended all at once, which takes little more time than one."""
        without = [trial for _, trial in list(self._ended) if not trial.scores]
        if not without:
            return
        try:
            scores = self._scores_of([trial.planned for trial in without])
        except Exception as error:  # the end of the study writes them
            self.unscored = f"{type(error).__name__}: {error}"
            return
        for trial in without:
            trial.scores = scores.get(trial.planned.config.identity, {})

    def _done(self, call: Callable[[], object]) -> bool:
        """Write one entry; return whether the backend accepted it.

        Raises:
            LaunchLostError: the study belongs to another launch.
        """
        try:
            call()
        except LaunchLostError:
            raise
        except Exception as error:  # a fault of the backend must not reach Tune
            self._fault(self._tracking.fault(error))
            return False
        return True

    def _fault(self, text: str) -> None:
        self.faults += 1
        self.last_fault = text

    def _away(self) -> bool:
        """Return whether the backend does not respond at all; the next attempt then comes later."""
        try:
            check_answers(self._tracking.uri)
        except TrackingError:
            self._away_until = time.monotonic() + AWAY_SECONDS
            return True
        return False

    def _kill_open(self) -> None:
        """Close the runs of trials that were stopped; the next launch continues them."""
        for trial in self._running.values():
            if trial.run is not None:
                with contextlib.suppress(Exception):
                    self._tracking.interrupt(trial.run.run_id)


def deliver(outbox: Outbox, tracking: StudyExperiment, delivered: Callable[[str], object] = str) -> list[str]:
    """Deliver the entries that an earlier command left in an outbox, oldest first; return the backend's errors.

    Call it only while holding the study's lock.
    """
    faults = []
    outbox.tidy()
    deadline = time.monotonic() + CLOSE_SECONDS
    for entry in outbox.entries():
        try:
            if not tracking.has_result(entry.planned.config.identity):  # else another launch trained it
                tracking.write(entry)
        except Exception as error:  # SQLAlchemy, requests and MLflow each raise their own
            faults.append(f"MLflow did not accept {entry.planned.name}: {tracking.fault(error)}")
            if time.monotonic() > deadline:  # the server responds but rejects every entry
                faults.append(f"{len(outbox)} trials wait in {outbox.folder} for the next command")
                break
            continue
        outbox.remove(entry)
        delivered(entry.planned.config.identity)
        deadline = time.monotonic() + CLOSE_SECONDS
    return faults
