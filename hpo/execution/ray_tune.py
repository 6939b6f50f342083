"""Ray Tune: workers, and the driver's side of a running study.

A Tune trial carries a *cohort*, a list of trial configs with one seed; a `Searcher` of ours hands them out. Why not
Tune's own restore, its Optuna searcher or its MLflow callback: docs/architecture.md.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import ObjectLostError
from ray.tune.search import Searcher

from hpo.core.errors import OutputError
from hpo.execution.attempts import Attempts
from hpo.execution.cluster_watch import ClusterWatch
from hpo.execution.events import Listener
from hpo.execution.job import Job
from hpo.execution.problem_upload import packed
from hpo.execution.ray_cluster import slots
from hpo.execution.ray_private import keep_cloud_keys_here
from hpo.execution.ray_start import SIGNALS
from hpo.study.schedule import Next, Schedule

keep_cloud_keys_here()
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it counts attempts that failed; we name trials
MOST_PENDING = 1000  # what Tune may hold; `ScheduleSearcher` decides


class _Stopped(BaseException):
    """A signal came. Not an `Exception`: on these Tune waits, for up to 15 seconds, until its workers report."""


class _StopAndCleanError(Exception):
    """A signal came, and Ray goes on: Tune is to give back the workers, which are killed, and what they have held."""


def _trainable(job: Job) -> Any:
    """What a worker runs. A closure travels by value: workers start without importing this module and its driver's
    side, pandas and scipy and optuna among it.

    The storage's address, which may hold a secret, is in it and not in the config, which Tune writes to a file. A
    problem's class that workers cannot import, and the data that it may hold, go by Ray's object store.
    """
    storage = job.storage

    def train(config: dict[str, Any], problem: bytes = b"") -> None:
        from ray import tune

        from hpo.core.trial import WorkerTask
        from hpo.training.worker import train_cohort

        task = WorkerTask(**config)
        if problem:
            from hpo.execution.problem_upload import unpack

            unpack(task.target, problem)
        train_cohort(task, storage, tune.report)

    content = packed(job.target)
    return tune.with_parameters(train, problem=content) if content else train


def run(schedule: Schedule, job: Job, listeners: Sequence[Listener], lost: Callable[[], bool] = bool) -> list[str]:
    """Run every trial the schedule hands out; returns when it is done, or a signal or ``lost`` has stopped it.

    Args:
        schedule: what to run; gets the results.
        job: what else workers need.
        listeners: told of every trial.
        lost: asked often whether the study is no longer this launch's.

    Returns:
        What listeners raised.

    Raises:
        OutputError: the history of the alpha sweep cannot be written.
    """
    attempts = Attempts(schedule, job, listeners, slots(job.resources))
    watch = ClusterWatch(attempts)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MOST_PENDING)
    with _stoppable(attempts), suppress(_Stopped, _StopAndCleanError):
        while (gone := _fit(attempts, watch, job, lost)) is not None:
            attempts.all_over(str(gone))
    if attempts.output_error is not None:
        raise attempts.output_error
    return attempts.errors


def _fit(attempts: Attempts, watch: ClusterWatch, job: Job, lost: Callable[[], bool]) -> ObjectLostError | None:
    """Let Tune run what the schedule hands out; what made it give up, ``None`` if it came to the end.

    Tune gives up when a node dies while it fetches what a trial of that node has reported.
    """
    with tempfile.TemporaryDirectory(prefix="gradsweep-ray-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(job), {"cpu": job.resources.cpu, "gpu": job.resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=ScheduleSearcher(attempts),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),  # `Attempts` hands out again, in a new Tune trial
                callbacks=[TuneCallback(attempts, watch, lost)],
                progress_reporter=NoReporter(),
            ),
        )
        try:
            tuner.fit()
        except Exception as error:
            gone = _lost_object(error)
            if gone is None or not attempts.attempts:
                raise
            return gone
    return None


def _lost_object(error: BaseException) -> ObjectLostError | None:
    """What Ray lost, if that is what an error came from."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ObjectLostError):
        seen = seen.__cause__ or seen.__context__
    return seen


@contextmanager
def _stoppable(attempts: Attempts) -> Iterator[None]:
    """Let the first signal stop the study between two of Tune's steps; the second acts as it would without us.

    All handlers are as they were afterwards, also that of SIGUSR1, which Tune takes. In a thread that is not the main
    one there are none: signals go to the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGUSR1)}
    before = {number: handler for number, handler in before.items() if handler is not None}

    def restore(*_: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        attempts.stopping = True
        restore()

    for number in SIGNALS:
        if before.get(number, signal.SIG_IGN) != signal.SIG_IGN:  # under nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


class NoReporter(tune.ProgressReporter):
    """Reports nothing: Tune's own for notebooks clears the output of the cell, however little it is to say."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        """Never."""
        return False

    def report(self, trials: list[Any], done: bool, *system: str) -> None:
        """Nothing."""


class ScheduleSearcher(Searcher):
    """Hands the schedule's trials to Tune, cohort by cohort."""

    def __init__(self, attempts: Attempts) -> None:
        super().__init__(metric=None, mode=None)
        self._attempts = attempts

    def suggest(self, trial_id: str) -> Any:
        """A cohort, ``None`` to be asked again later, or FINISHED."""
        if self._attempts.again:
            return self._attempts.hand_out(trial_id, *self._attempts.again.popleft())
        if self._attempts.enough_waiting:
            return None
        try:
            cohort = self._attempts.schedule.next_cohort(self._attempts.job.together, self._attempts.slots)
        except OutputError as error:
            self._attempts.stop(error)
            return None
        if isinstance(cohort, Next):
            return None if cohort is Next.WAIT else Searcher.FINISHED
        return self._attempts.hand_out(trial_id, cohort)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Results have come through the callback; what has none by now never will. Of an error the callback knows."""
        if not error:
            self._attempts.over(trial_id, "the trial ended without a result")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: resume reads MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: resume reads MLflow."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers into a snapshot that is never read."""
        return {}


class TuneCallback(tune.Callback):
    """Passes Tune's events on."""

    def __init__(self, attempts: Attempts, watch: ClusterWatch, lost: Callable[[], bool]) -> None:
        self._attempts, self._watch, self._lost = attempts, watch, lost

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Several times a second."""
        if self._attempts.stopping or self._lost():
            self._stop()
        self._watch.look(trials)

    def _stop(self) -> None:
        if not self._attempts.job.left_running:
            raise _Stopped  # Ray ends, and its workers with it
        self._attempts.killed = True
        for attempt in self._attempts.attempts.values():
            actor = attempt.trial and attempt.trial.temporary_state.ray_actor
            if actor is not None:
                ray.kill(actor)
        raise _StopAndCleanError

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker begins with a cohort."""
        self._attempts.begin(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """An epoch or a result."""
        self._attempts.result(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker or node died, or our own code is wrong."""
        error = ""
        with suppress(OSError, TypeError):  # get_error() reads the copy in the storage, which comes seconds later
            error = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
        self._attempts.over(trial.trial_id, error)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks into a snapshot that is never read."""
        return {}
