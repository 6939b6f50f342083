"""Ray Tune: workers, and the driver's side of a running study. The only file that imports ray.

A Tune trial carries a *cohort*, a list of trial configs with one seed; a `Searcher` of ours hands them out. Why not
Tune's own restore, its Optuna searcher or its MLflow callback: docs/architecture.md.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hpo.environment  # noqa: F401  isort: skip - before ray
import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from hpo.listener import Listener
from hpo.plan import Planned
from hpo.schedule import Next, Schedule
from hpo.study import Resources
from hpo.trial import EpochReport, TrialResult

RETRIES = 2  # of a trial whose worker or node died


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or can never run a trial of this study."""


class _Stopped(BaseException):
    """A signal came. Not an `Exception`: on these Tune waits, for up to 15 seconds, until its workers report."""


@contextmanager
def connected(address: str | None, resources: Resources) -> Iterator[str]:
    """A cluster that can run a trial: a running one, or one of this machine's cores for the time being.

    Args:
        address: of a running cluster; ``None`` starts a local one.
        resources: what a trial needs.

    Yields:
        What the cluster is, in words.

    Raises:
        ClusterError: it does not answer, or no node can ever hold a trial.
    """
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is not None and address != "auto":
        _knock(address)
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # loopback only; else it depends on files in $HOME
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address or "local", **quiet)
    except (RuntimeError, ValueError, OSError, RayError) as error:
        where = f"--address: no Ray cluster answers at {address}" if address else "Ray did not start on this machine"
        raise ClusterError(f"{where}: {' '.join(str(error).split())}") from None
    try:
        yield _checked(resources)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ray itself tries for minutes, with pages of warnings."""
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdigit():
        raise ClusterError(
            f"--address: found {address!r}, allowed: host:port of the cluster's head, or auto on one of its nodes; "
            "the driver needs the cluster's network, so that Ray Client's ray:// will not do"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"--address: no Ray cluster answers at {address}: {error}") from None


def _checked(resources: Resources) -> str:
    nodes = _nodes()
    for field, name in (("gpu", "GPU"), ("cpu", "CPU")):
        need, most = getattr(resources, field), max((node.get(name, 0.0) for node in nodes), default=0.0)
        if need > most:
            raise ClusterError(
                f"resources.{field}: found {need:g} {name} a trial, allowed: at most {most:g}, "
                f"the most that a node of this cluster has ({len(nodes)} node(s))"
            )
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    return f"{len(nodes)} node(s), {total['CPU']:g} CPU, {total['GPU']:g} GPU"


def _trainable() -> Callable[[dict[str, Any]], None]:
    """What a worker runs. A closure travels by value: workers start without importing this module and its driver's
    side, pandas and scipy and optuna among it.
    """

    def train(config: dict[str, Any]) -> None:
        from ray import tune

        from hpo.worker import train_cohort

        train_cohort(config, tune.report)

    return train


def _slots(resources: Resources) -> int:
    """How many trials the cluster can run at once."""
    return sum(
        int(
            min(node.get(name, 0.0) / need for name, need in (("CPU", resources.cpu), ("GPU", resources.gpu)) if need)
        )
        for node in _nodes()
    )


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def run(schedule: Schedule, resources: Resources, listeners: Sequence[Listener]) -> list[str]:
    """Run every trial the schedule hands out; returns when it is done or a signal has stopped it.

    Args:
        schedule: what to run; gets the results.
        resources: what one trial needs.
        listeners: told of every trial.

    Returns:
        What listeners raised.
    """
    bridge = _Bridge(schedule, resources, listeners)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(bridge.most_waiting)  # else 1 for a searcher of one's own
    with tempfile.TemporaryDirectory(prefix="gradsweep-ray-") as folder, _stoppable(bridge), suppress(_Stopped):
        tune.Tuner(
            tune.with_resources(_trainable(), {"cpu": resources.cpu, "gpu": resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=_Handout(bridge),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="study",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[_Events(bridge)],
            ),
        ).fit()
    return bridge.errors


@contextmanager
def _stoppable(bridge: _Bridge) -> Iterator[None]:
    """Let the first signal stop the study between two of Tune's steps; the second acts as it would without us."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def restore(*_: object) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(*_: object) -> None:
        bridge.stopping = True
        restore()

    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # under nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


class _Bridge:
    """What the searcher and the callback share: which Tune trial runs which of ours."""

    def __init__(self, schedule: Schedule, resources: Resources, listeners: Sequence[Listener]) -> None:
        self.schedule, self.resources, self.listeners = schedule, resources, listeners
        self.import_paths = [path for path in dict.fromkeys([*sys.path, str(Path.cwd())]) if path]
        self.cohorts: dict[str, list[Planned]] = {}
        # Tune keeps a worker for the next trial only if that is waiting when the last one ends, so each slot needs
        # one in waiting; not more, since what is handed out late can still learn from results.
        self.most_waiting = _slots(resources) + 1
        self.errors: list[str] = []
        self.stopping = False

    def config(self, cohort: Sequence[Planned]) -> dict[str, Any]:
        return {
            "identities": [planned.config.identity for planned in cohort],
            "cohort": [asdict(planned.config) for planned in cohort],
            "import_paths": self.import_paths,
            "cpu": self.resources.cpu,
            "gpu": self.resources.gpu,
        }

    def result(self, trial_id: str, report: Mapping[str, Any]) -> None:
        """Pass on what a worker reported."""
        planned = next((p for p in self.cohorts[trial_id] if p.config.identity == report.get("identity")), None)
        if planned is None:
            return
        for epoch in report.get("epoch") or []:
            self.tell("trial_reported", planned, EpochReport(**epoch))
        for content in report.get("result") or []:
            self.end(planned, TrialResult(**content))

    def end(self, planned: Planned, result: TrialResult) -> None:
        if planned.config.identity not in self.schedule.results:
            self.schedule.finished(planned.config.identity, result)
            self.tell("trial_ended", planned, result)

    def died(self, trial_id: str, error: object) -> None:
        """Tune has given up on a trial: its worker died too often, or our own code is wrong."""
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        text = f"the worker ended {RETRIES + 1} times: {lines[-1] if lines else 'no reason given'}"
        for planned in self.cohorts.get(trial_id, []):
            self.end(planned, TrialResult("failed", error=f"{text}\n\n{error}"))

    def tell(self, event: str, *arguments: Any) -> None:
        """A listener's fault must not end the sweep: Tune would stop on it."""
        for listener in self.listeners:
            try:
                getattr(listener, event)(*arguments)
            except Exception as error:
                self.errors.append(f"{type(listener).__name__}.{event}: {type(error).__name__}: {error}")


class _Handout(Searcher):
    """Hands the schedule's trials to Tune, cohort by cohort."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        """A cohort, ``None`` to be asked again later, or FINISHED."""
        if self._bridge.schedule.waiting >= self._bridge.most_waiting:
            return None
        planned = self._bridge.schedule.next()
        if isinstance(planned, Next):
            return None if planned is Next.WAIT else Searcher.FINISHED
        self._bridge.cohorts[trial_id] = [planned]
        return self._bridge.config([planned])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Results have come through the callback; what has none by now never will."""
        del result
        self._bridge.died(trial_id, "the trial was stopped" if error else "the trial ended without a result")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: resume reads MLflow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: resume reads MLflow."""

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles searchers into a snapshot that is never read."""
        return {}


class _Events(tune.Callback):
    """Passes Tune's events on."""

    def __init__(self, bridge: _Bridge) -> None:
        self._bridge = bridge

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Several times a second."""
        if self._bridge.stopping:
            raise _Stopped

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker begins with a cohort."""
        for planned in self._bridge.cohorts.get(trial.trial_id, []):
            self._bridge.schedule.begun(planned.config.identity)
            self._bridge.tell("trial_started", planned)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """An epoch or a result."""
        self._bridge.result(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Tune has given up on a trial."""
        self._bridge.died(trial.trial_id, trial.get_error() or "")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks into a snapshot that is never read."""
        return {}
