"""The driver's one thread that writes trials to MLflow, by way of an outbox that outlives server and driver."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from hpo.core.errors import LaunchLostError, TrackingError
from hpo.core.trial import EpochReport, PlannedTrial, TrialResult
from hpo.tracking.backend import check_answers
from hpo.tracking.experiment import OpenRun, StudyExperiment
from hpo.tracking.experiment_base import now
from hpo.tracking.outbox import EndedTrial, Outbox

FLUSH_SECONDS = 1.0  # between two looks at what running trials have reported
FLUSH_PACE = 20  # times what a round of them took must pass before the next: of a cohort, each has a run of its own
BEAT_SECONDS = 10.0  # between two signs of life
AWAY_SECONDS = 3.0  # between two attempts at a backend that does not answer
CLOSE_SECONDS = 60.0  # to deliver what is left


@dataclass
class _Open:
    """A trial that runs, or that has ended in this launch, and how much of it MLflow holds."""

    planned: PlannedTrial
    started: int  # milliseconds
    epochs: list[EpochReport] = field(default_factory=list)
    run: OpenRun | None = None
    written: int = 0  # of the epochs
    flushed: float = 0.0


class Heartbeat:
    """Leaves a sign of life of a launch every few seconds while the block runs, whatever the driver is doing.

    Args:
        tracking: the experiment.
        launch: the parent run.

    Attributes:
        lost: set once another launch has taken the study over.
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
        """End; a request that is on its way is not waited for."""
        self._over.set()

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._tracking.beat(self._launch)
            except LaunchLostError as error:
                self.lost = error
                return
            except Exception:  # the backend is away; the writer says so
                continue


class MlflowWriter:
    """A `hpo.execution.events.Listener` that writes trials to MLflow from one thread; it never raises.

    A trial that ends is in the outbox before the driver goes on, and goes from there to MLflow, in order, when the
    backend answers. What is left at the end waits in the outbox for the next command.

    Args:
        tracking: the experiment.
        launch: the parent run.
        outbox: of the study.
        delivered: told the identity of each trial that MLflow holds to its end.
    """

    def __init__(
        self, tracking: StudyExperiment, launch: str, outbox: Outbox, delivered: Callable[[str], object] = str
    ) -> None:
        self._tracking, self._launch, self._outbox, self._delivered = tracking, launch, outbox, delivered
        self._running: dict[str, _Open] = {}
        self._ended: deque[tuple[EndedTrial, _Open]] = deque()
        self._away_until, self._flush_from = 0.0, 0.0
        self._closing = threading.Event()
        self.faults = 0
        self.last_fault = ""
        self.lost: LaunchLostError | None = None  # another launch owns the study: nothing is written any more
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
        """See `Listener`; its run stays open."""

    def trial_ended(self, planned: PlannedTrial, result: TrialResult) -> None:
        """See `Listener`."""
        trial = self._running.pop(planned.config.identity, None) or _Open(planned, now())
        entry = EndedTrial(planned, self._launch, trial.started, now(), result, trial.epochs)
        try:
            entry = self._outbox.add(entry)
        except OSError as error:  # MLflow may still take it
            self._fault(f"{error.filename or self._outbox.folder} cannot be written: {error.strerror}")
        except Exception as error:  # whatever pandas or pyarrow raise
            self._fault(f"{self._outbox.folder} cannot be written: {type(error).__name__}: {error}")
        self._ended.append((entry, trial))

    def noticed(self, text: str) -> None:
        """See `Listener`; MLflow holds nothing of it."""

    def time_passed(self) -> None:
        """See `Listener`; the writer has a thread of its own."""

    def close(self) -> list[EndedTrial]:
        """Write what is left and close the runs of trials that did not end. What MLflow did not take."""
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
                time.sleep(1.0)  # it refused; it may come back
        if self.lost is None:
            self._kill_open()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """A fault of our own must not end the thread: what it holds would be lost."""
        try:
            yield
        except LaunchLostError as error:
            self.lost = error
        except Exception as error:
            self._fault(f"{type(error).__name__}: {error}")

    def _flush(self) -> bool:
        """Write the epochs of running trials; false if the backend is away."""
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
        """Write the trials that have ended; false if any is left."""
        for _ in range(len(self._ended)):
            if time.monotonic() > deadline:
                return False
            entry, trial = self._ended[0]
            if self._done(partial(self._tracking.write, entry, trial.run, trial.written)):
                self._ended.popleft()  # first: what may fail below must not hold up the others
                self._outbox.remove(entry)
                self._delivered(entry.planned.config.identity)
            elif self._away():
                return False
            else:
                self._ended.rotate(-1)  # if it is at fault, let others pass
        return not self._ended

    def _done(self, call: Callable[[], object]) -> bool:
        """Whether the backend took it.

        Raises:
            LaunchLostError: the study is another launch's.
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
        """Whether the backend itself does not answer; then the next attempt comes later."""
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
    """Deliver what waits in an outbox since an earlier command, oldest first. What the backend said against it.

    Only for who holds the study's lock.
    """
    faults = []
    outbox.tidy()
    deadline = time.monotonic() + CLOSE_SECONDS
    for entry in outbox.entries():
        try:
            if not tracking.has_result(entry.planned.config.identity):  # else another launch has trained it since
                tracking.write(entry)
        except Exception as error:  # SQLAlchemy, requests and MLflow each have their own
            faults.append(f"MLflow did not take {entry.planned.name}: {tracking.fault(error)}")
            if time.monotonic() > deadline:  # a server that answers, but to nothing of this
                faults.append(f"{len(outbox)} trials wait in {outbox.folder} for the next command")
                break
            continue
        outbox.remove(entry)
        delivered(entry.planned.config.identity)
        deadline = time.monotonic() + CLOSE_SECONDS
    return faults
