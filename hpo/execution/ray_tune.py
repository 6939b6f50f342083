"""Ray Tune: the workers and the driver of a running study.

A Tune trial trains a *cohort*, a list of trial configs with one seed; our `Searcher` hands them out.
docs/architecture.md explains why Tune's own restore, Optuna searcher and MLflow callback are not used.
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

from hpo.core.errors import InputError
from hpo.execution.attempts import Attempts
from hpo.execution.cluster_watch import ClusterWatch
from hpo.execution.events import Listener
from hpo.execution.job import Job
from hpo.execution.problem_upload import packed
from hpo.execution.ray_cluster import bundles, slots
from hpo.execution.ray_private import keep_cloud_keys_here
from hpo.execution.ray_start import SIGNALS
from hpo.study.schedule import Next, Schedule
from hpo.study.spec import Resources

keep_cloud_keys_here()
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it counts failed attempts; we list failed trials
MOST_PENDING = 1000  # Tune's limit; `ScheduleSearcher` decides


class _Stopped(BaseException):
    """A signal came. Not an `Exception`, on which Tune would wait up to 15 seconds for its workers' reports."""


class _StopAndCleanError(Exception):
    """A signal came, and Ray keeps running: Tune must release the workers, which are killed, and their resources."""


def _trainable(job: Job) -> Any:
    """Return the function that a worker runs. As a closure it is pickled by value: workers start without importing
    this module and the driver's dependencies (pandas, scipy, optuna).

    The storage's address may hold a secret, so it is in the closure and not in the config, which Tune writes to a
    file. A problem class that workers cannot import, with its data, is sent through Ray's object store.
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

    def start_ranks(config: dict[str, Any], problem: bytes = b"") -> None:
        from ray import tune

        from hpo.core.trial import WorkerTask
        from hpo.execution.rank_group import train_in_ranks

        train_in_ranks(WorkerTask(**config), storage, problem, tune.report)

    chosen, content = start_ranks if job.resources.workers > 1 else train, packed(job.target)
    return tune.with_parameters(chosen, problem=content) if content else chosen


def _placement(resources: Resources) -> Any:
    """Return the resources of a worker; one that starts the processes of its trials takes none itself."""
    needs = bundles(resources)
    return tune.PlacementGroupFactory(needs if len(needs) == 1 else [{}, *needs])


def run(schedule: Schedule, job: Job, listeners: Sequence[Listener], lost: Callable[[], bool] = bool) -> list[str]:
    """Run every trial that the schedule hands out, until it is done or a signal or ``lost`` stops it.

    Args:
        schedule: what to run; gets the results.
        job: settings of the workers.
        listeners: notified of every trial.
        lost: called often; returns whether another launch has taken over the study.

    Returns:
        The exceptions of listeners.

    Raises:
        InputError: the history of the alpha sweep cannot be written, or a sampler of the user's fails.
    """
    attempts = Attempts(schedule, job, listeners, slots(job.resources))
    watch = ClusterWatch(attempts)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MOST_PENDING)
    with _stoppable(attempts), suppress(_Stopped, _StopAndCleanError):
        while (gone := _fit(attempts, watch, job, lost)) is not None:
            attempts.all_over(str(gone))
    if attempts.input_error is not None:
        raise attempts.input_error
    return attempts.errors


def _fit(attempts: Attempts, watch: ClusterWatch, job: Job, lost: Callable[[], bool]) -> ObjectLostError | None:
    """Let Tune run the schedule; return the error that made it give up, ``None`` if it finished.

    Tune gives up when a node dies while Tune fetches a report from it.
    """
    with tempfile.TemporaryDirectory(prefix="gradsweep-ray-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(job), _placement(job.resources)),
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
    """Return the Ray error that caused an error, if there is one."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ObjectLostError):
        seen = seen.__cause__ or seen.__context__
    return seen


@contextmanager
def _stoppable(attempts: Attempts) -> Iterator[None]:
    """Let the first signal stop the study between two of Tune's steps; the second has its usual effect.

    All handlers are restored afterwards, also that of SIGUSR1, which Tune replaces. Outside the main thread no
    handlers are installed, because signals go to the main thread.
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
    """A reporter that prints nothing: Tune's own reporter for notebooks clears the output of the cell."""

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
        """Return a cohort, ``None`` to be asked again later, or FINISHED."""
        if self._attempts.again:
            return self._attempts.hand_out(trial_id, *self._attempts.again.popleft())
        if self._attempts.enough_waiting:
            return None
        try:
            cohort = self._attempts.schedule.next_cohort(self._attempts.job.together, self._attempts.slots)
        except InputError as error:
            self._attempts.stop(error)
            return None
        if isinstance(cohort, Next):
            return None if cohort is Next.WAIT else Searcher.FINISHED
        return self._attempts.hand_out(trial_id, cohort)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """End an attempt. The callback has its results and errors; trials without either have failed."""
        if not error:
            self._attempts.over(trial_id, "the trial ended without a result")

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: resume reads MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: resume reads MLflow."""

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state: Tune pickles searchers into a snapshot that is never read."""
        return {}


class TuneCallback(tune.Callback):
    """Passes Tune's events to the attempts."""

    def __init__(self, attempts: Attempts, watch: ClusterWatch, lost: Callable[[], bool]) -> None:
        self._attempts, self._watch, self._lost = attempts, watch, lost

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune several times per second."""
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
        """Called when a worker starts a cohort."""
        self._attempts.begin(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Called with an epoch or a result."""
        self._attempts.result(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called when a worker or node died, or our own code failed."""
        error = ""
        with suppress(OSError, TypeError):  # get_error() reads the copy in the storage, which arrives seconds later
            error = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
        self._attempts.over(trial.trial_id, error)

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state: Tune pickles callbacks into a snapshot that is never read."""
        return {}
