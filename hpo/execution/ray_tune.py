"""Ray Tune: workers, and the driver's side of a running study.

A Tune trial carries a *cohort*, a list of trial configs with one seed; a `Searcher` of ours hands them out. Why not
Tune's own restore, its Optuna searcher or its MLflow callback: docs/architecture.md.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hpo.core.environment import close_local_ray  # isort: skip - before ray
import ray
from ray import tune
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray.autoscaler.sdk import request_resources
from ray.exceptions import ObjectLostError, RayError
from ray.tune.execution import class_cache
from ray.tune.search import Searcher

from hpo.core.files import OutputError
from hpo.core.text import one_line
from hpo.core.trial import PAUSED, STOPPED, EpochReport, PlannedTrial, TrialResult
from hpo.core.uris import redacted, shown
from hpo.execution.code_upload import ShippingError, stage
from hpo.execution.events import Listener
from hpo.execution.ray_start import SIGNALS, start_ray
from hpo.study.schedule import Next, Schedule
from hpo.study.spec import Resources
from hpo.training.worker import ALONE, EPOCH, RESULT, RESUMED

# Tune would send the driver's AWS keys to its workers, and Ray would write them to its logs. Nodes have their own.
class_cache.ENV_VARS_TO_PROPAGATE = frozenset(
    name for name in class_cache.ENV_VARS_TO_PROPAGATE if not name.startswith("AWS_")
)
logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)  # it counts attempts that failed; we name trials

RETRIES = 2  # of a trial, alone, whose worker or node died without getting further than the time before
TOGETHER = 1  # deaths without getting further after which a cohort is handed out again as it is; then in halves
LOOK_SECONDS = 5.0  # between two looks at the nodes
KNOCK_SECONDS = 5.0  # for the head of a cluster to answer
MOST_PENDING = 1000  # what Tune may hold; `_Handout` decides


class ClusterError(RuntimeError):
    """The cluster cannot be reached, or can never run a trial of this study."""


class _Stopped(BaseException):
    """A signal came. Not an `Exception`: on these Tune waits, for up to 15 seconds, until its workers report."""


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


def _unannounced(text: str) -> AbstractContextManager[None]:
    del text
    return nullcontext()


@contextmanager
def connected(
    address: str | None,
    resources: Resources,
    wait: float = 0.0,
    stage: Callable[[str], AbstractContextManager[None]] = _unannounced,
) -> Iterator[str]:
    """A cluster that can run a trial: a running one, or one of this machine's cores for the time being.

    A running one is sent the code that has been imported, see `hpo.execution.code_upload`.

    Args:
        address: of a running cluster; ``None`` starts a local one.
        resources: what a trial needs.
        wait: so many minutes for a node that can hold a trial; an autoscaler is asked for one.
        stage: told what is being done, for as long as it takes.

    Yields:
        What the cluster is, in words.

    Raises:
        ClusterError: it does not answer, or no node can ever hold a trial.
    """
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is not None and address != "auto":
        _knock(address)
    if address is None:
        close_local_ray()
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="gradsweep-code-") as folder:
        if address is not None and RAY_JOB_CONFIG_JSON_ENV_VAR not in os.environ:  # else `ray job submit` has sent it
            quiet["runtime_env"] = {"working_dir": str(_staged(Path(folder)))}
        try:
            with stage(f"connecting to Ray at {address}" if address else "starting Ray on this machine"):
                start_ray(address or "local", **quiet)
        except Exception as error:  # Ray raises many kinds, a bare Exception among them
            where = f"--address: no Ray cluster answers at {address}" if address else "Ray did not start here"
            raise ClusterError(f"{where}: {' '.join(redacted(str(error), address or '').split())}") from None
    try:
        with stage("waiting for a node that can hold a trial") if wait else nullcontext():
            nodes = _checked(resources, wait)
        yield nodes
    finally:
        ray.shutdown()


def _staged(folder: Path) -> Path:
    try:
        return stage(folder)
    except ShippingError as error:
        raise ClusterError(str(error)) from None


def _knock(address: str) -> None:
    """Ray itself tries for minutes, with pages of warnings."""
    host, _, port = address.rpartition(":")
    if "/" in address or "@" in address or not host or not port.isdigit():
        raise ClusterError(
            f"--address: found {shown(address)!r}, allowed: host:port of the cluster's head, or auto on one of its "
            "nodes; the driver needs the cluster's network, so that Ray Client's ray:// will not do"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS) as connection:
            if not os.environ.get("RAY_USE_TLS"):  # which would want a handshake first
                _greet(connection)
    except (OSError, OverflowError) as error:
        raise ClusterError(f"--address: no Ray cluster answers at {address}: {error}") from None


def _greet(connection: socket.socket) -> None:
    """See whether the other side speaks HTTP/2, as every server of gRPC does (RFC 9113, 3.4).

    Raises:
        OSError: it does not.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # no settings
    answer = b""
    while len(answer) < 4:
        part = connection.recv(64)
        if not part:
            break
        answer += part
    if answer[3:4] != b"\x04":  # the type of a frame with its settings
        raise ConnectionError("what listens there is no head of a cluster")


def _checked(resources: Resources, wait: float) -> str:
    """The cluster in words, once a node can hold a trial."""
    deadline = time.monotonic() + 60 * wait
    asked = False
    try:
        while not slots(resources):
            if time.monotonic() >= deadline:
                raise ClusterError(_too_small(resources))
            request_resources(bundles=[{"CPU": resources.cpu} | ({"GPU": resources.gpu} if resources.gpu else {})])
            asked = True
            time.sleep(1.0)
    finally:
        if asked:
            request_resources(bundles=[])  # else an autoscaler keeps the node for good
    return _words()


def _too_small(resources: Resources) -> str:
    """Why no node can hold a trial."""
    nodes = _nodes().values()
    for key, name in (("gpu", "GPU"), ("cpu", "CPU")):
        need, most = getattr(resources, key), max((node.get(name, 0.0) for node in nodes), default=0.0)
        if need > most:
            break
    else:
        key, need, name, most = "gpu", resources.gpu, f"GPU beside {resources.cpu:g} CPU", 0.0
    return (
        f"resources.{key}: found {need:g} {name} a trial, allowed: at most {most:g}, "
        f"the most that a node of this cluster has ({len(nodes)} node(s)); if more nodes are to come: --wait MINUTES"
    )


def _words() -> str:
    nodes = _nodes().values()
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    return f"{len(nodes)} node(s), {total['CPU']:g} CPU, {total['GPU']:g} GPU"


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


class Sizing:
    """A worker that finds out how many trials to train at once, while the driver sees to other things.

    Args:
        job: as for `run`.
        cohort: trials of one seed, such as are to be trained.
        most: more are not wanted.
    """

    def __init__(self, job: Job, cohort: Sequence[PlannedTrial], most: int) -> None:
        def measure(config: dict[str, Any], most: int) -> tuple[int, str]:  # travels by value, as `_trainable` does
            from hpo.training.worker import size_cohort

            return size_cohort(config, most)

        resources = job.resources
        remote: Any = ray.remote(num_cpus=resources.cpu, num_gpus=resources.gpu, max_retries=0)(measure)
        self._answer = remote.remote(worker_config(job, cohort, []), most)

    def result(self) -> tuple[int, str]:
        """How many, and why, in words; waits for the worker. One that died has tried too many."""
        try:
            size, why = ray.get(self._answer)
        except RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return 1, f"one at a time, since trying it out failed: {lines[-1] if lines else type(error).__name__}"
        return int(size), str(why)


def _trainable(storage: str) -> Callable[[dict[str, Any]], None]:
    """What a worker runs. A closure travels by value: workers start without importing this module and its driver's
    side, pandas and scipy and optuna among it.

    The storage's address, which may hold a secret, is in it and not in the config, which Tune writes to a file.
    """

    def train(config: dict[str, Any]) -> None:
        from ray import tune

        from hpo.training.worker import train_cohort

        train_cohort({**config, "storage": storage}, tune.report)

    return train


def slots(resources: Resources) -> int:
    """How many trials the cluster can run at once."""
    needs = [(name, need) for name, need in (("CPU", resources.cpu), ("GPU", resources.gpu)) if need]
    return sum(int(min(node.get(name, 0.0) / need for name, need in needs)) for node in _nodes().values())


def _nodes() -> dict[str, dict[str, float]]:
    """The resources of each node that is alive, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


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
    bridge = _Bridge(schedule, job, listeners, lost)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(MOST_PENDING)
    with _stoppable(bridge), suppress(_Stopped):
        while (gone := _fit(bridge, job)) is not None:
            bridge.all_over(str(gone))
    if bridge.output_error is not None:
        raise bridge.output_error
    return bridge.errors


def _fit(bridge: _Bridge, job: Job) -> ObjectLostError | None:
    """Let Tune run what the schedule hands out; what made it give up, ``None`` if it came to the end.

    Tune gives up when a node dies while it fetches what a trial of that node has reported.
    """
    with tempfile.TemporaryDirectory(prefix="gradsweep-ray-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(_trainable(job.storage), {"cpu": job.resources.cpu, "gpu": job.resources.gpu}),
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
                failure_config=tune.FailureConfig(max_failures=0),  # `_Bridge` hands out again, in a new Tune trial
                callbacks=[_Events(bridge)],
            ),
        )
        try:
            tuner.fit()
        except Exception as error:
            gone = _lost_object(error)
            if gone is None or not bridge.attempts:
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
def _stoppable(bridge: _Bridge) -> Iterator[None]:
    """Let the first signal stop the study between two of Tune's steps; the second acts as it would without us."""
    before = {number: signal.getsignal(number) for number in SIGNALS}

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


@dataclass
class _Attempt:
    """A Tune trial: one attempt at a cohort."""

    cohort: list[PlannedTrial]
    deaths: int = 0  # of attempts at these trials, one after another, none of which got any of them further
    over: set[str] = field(default_factory=set)  # identities of trials that it has brought to an end, or to a pause
    trial: Any = None
    begun: float = math.inf  # on the monotonic clock
    late: bool = False


def next_attempts(attempt: _Attempt, left: Sequence[PlannedTrial]) -> list[tuple[list[PlannedTrial], int]]:
    """Choose what to hand out after an attempt whose worker died: groups of trials, each with its count of deaths.

    Which of several trials killed the worker nobody knows. So they are tried once more as they are, then in halves
    and halves of these. A trial that comes to be alone begins to count anew: only its own deaths can fail it.

    Args:
        attempt: its ``deaths`` include this one.
        left: the trials that it has not brought to an end.

    Returns:
        Nothing if a trial that was alone has died too often.
    """
    if len(attempt.cohort) == 1:
        return [(list(left), attempt.deaths)] if attempt.deaths <= RETRIES else []
    if len(left) > 1 and attempt.deaths <= TOGETHER and not attempt.late:
        return [(list(left), attempt.deaths)]
    half = -(-len(left) // 2)
    groups = [list(group) for group in (left[:half], left[half:]) if group]
    return [(group, attempt.deaths if len(group) > 1 else 0) for group in groups]


class _Bridge:
    """What the searcher and the callback share: which Tune trial runs which of ours."""

    def __init__(self, schedule: Schedule, job: Job, listeners: Sequence[Listener], lost: Callable[[], bool]) -> None:
        self.schedule, self.job, self.listeners, self.lost = schedule, job, listeners, lost
        self.attempts: dict[str, _Attempt] = {}  # by Tune's id
        self.again: deque[tuple[list[PlannedTrial], int]] = deque()  # with the deaths of their workers
        self.furthest: dict[str, int] = {}  # steps by identity
        self.errors: list[str] = []
        self.paused: dict[str, TrialResult] = {}  # with their trajectories
        self.noticed: set[str] = set()  # what workers have said of cohorts, told once
        self.stopping = False
        self.output_error: OutputError | None = None
        self.looked, self.nodes = time.monotonic(), set(_nodes())
        self.slots = slots(job.resources)

    @property
    def enough_waiting(self) -> bool:
        """Tune keeps a worker for the next cohort only if that is waiting when the last one ends, so each slot needs
        one in waiting; not more, since what is handed out late can still learn from results.
        """
        return sum(attempt.begun == math.inf for attempt in self.attempts.values()) > self.slots

    def hand_out(self, trial_id: str, cohort: list[PlannedTrial], deaths: int = 0) -> dict[str, Any]:
        """A cohort as a worker reads it."""
        self.attempts[trial_id] = _Attempt(cohort, deaths)
        return worker_config(self.job, cohort, [self.schedule.until(planned.config) for planned in cohort])

    def begin(self, trial: Any) -> None:
        """A worker begins with a cohort."""
        attempt = self.attempts[trial.trial_id]
        attempt.trial, attempt.begun = trial, time.monotonic()
        for planned in attempt.cohort:
            self.schedule.begun(planned.config.identity)
            self.tell("trial_started", planned)

    def result(self, trial_id: str, report: dict[str, Any]) -> None:
        """Pass on what a worker reported, and take it out of the report, which Tune keeps for good."""
        attempt = self.attempts.get(trial_id)
        cohort = {planned.config.identity: planned for planned in attempt.cohort} if attempt else {}
        for kind, identity, content in report.pop("events", None) or []:
            if kind == ALONE and content not in self.noticed:
                self.noticed.add(content)
                self.tell("noticed", content)
            planned = cohort.get(identity)
            if planned is None or attempt is None:
                continue
            if kind == EPOCH:
                epoch = EpochReport(**content)
                self.got_to(attempt, identity, epoch.steps)
                self.tell("trial_reported", planned, epoch)
            elif kind == RESUMED:
                self.got_to(attempt, identity, content)
            elif kind == RESULT:
                attempt.over.add(identity)
                attempt.deaths = 0
                self.end(planned, TrialResult(**content))

    def got_to(self, attempt: _Attempt, identity: str, steps: int) -> None:
        """A trial is at this step; if it never was before, its workers' deaths are forgiven."""
        if steps > self.furthest.get(identity, 0):
            self.furthest[identity] = steps
            attempt.deaths = 0

    def end(self, planned: PlannedTrial, result: TrialResult) -> None:
        identity = planned.config.identity
        if identity in self.schedule.results:
            return
        self.furthest.pop(identity, None)
        try:
            self.schedule.finished(identity, replace(result, trajectory={}))  # it travels on to MLflow alone
        except OutputError as error:  # of Optuna's file; the result must not be lost with it
            self.stop(error)
        if result.status == PAUSED:
            self.paused[identity] = result
            self.tell("trial_paused", planned)
        else:
            self.tell("trial_ended", planned, result)
        for stopped in self.schedule.stopped():
            mine = self.paused.pop(stopped.config.identity)
            self.tell("trial_ended", stopped, replace(mine, status=STOPPED))

    def stop(self, error: OutputError) -> None:
        """End the study as a signal does; `run` raises the error then."""
        self.output_error, self.stopping = error, True

    def over(self, trial_id: str, error: str) -> None:
        """An attempt is over. What has no result by now goes to the next worker, unless it keeps on dying."""
        attempt = self.attempts.pop(trial_id, None)
        if attempt is None:
            return
        cohort = [planned for planned in attempt.cohort if planned.config.identity not in attempt.over]
        left = [planned for planned in cohort if planned.config.identity not in self.schedule.results]
        attempt.deaths += 1
        groups = next_attempts(attempt, left) if left else []
        for planned in left:
            if groups:
                self.schedule.interrupted(planned.config.identity)
            else:
                self.end(planned, TrialResult("failed", error=_death(error)))
        self.again.extend(groups)

    def all_over(self, error: str) -> None:
        """Tune has given up, and with it every attempt."""
        self.tell("noticed", "a node died with a report on its way; every trial goes on from its last checkpoint")
        for trial_id in list(self.attempts):
            self.over(trial_id, error)

    def look(self, trials: Sequence[Any]) -> None:
        """Look at the cluster, at trials that take too long, and at what Tune has ended without a word."""
        if time.monotonic() - self.looked < LOOK_SECONDS:
            return
        self.looked = time.monotonic()
        self.tell("time_passed")
        self.slots = slots(self.job.resources)
        nodes = set(_nodes())
        left, joined = len(self.nodes - nodes), len(nodes - self.nodes)
        if left or joined:
            self.nodes = nodes
            waiting = "" if self.slots else ", none of which can hold a trial: waiting for one"
            self.tell("noticed", f"the cluster has changed: {left} left, {joined} joined; {_words()}{waiting}")
        self._stop_late()
        for trial in trials:
            if trial.trial_id in self.attempts and trial.is_finished():
                self.over(trial.trial_id, "Tune could not start it")

    def _stop_late(self) -> None:
        limit = self.job.resources.minutes
        for attempt in list(self.attempts.values()):
            if limit is None or time.monotonic() - attempt.begun < 60 * limit * len(attempt.cohort):
                continue
            attempt.late = True  # a cohort goes on in halves, until the trial that takes so long is alone
            for planned in attempt.cohort if len(attempt.cohort) == 1 else []:
                text = f"it took more than {limit:g} minutes, the limit that resources.minutes sets, and was stopped"
                self.end(planned, TrialResult("failed", error=text))
            actor = attempt.trial.temporary_state.ray_actor
            if actor is not None:
                ray.kill(actor)  # it may hang for good; Tune then tells that the attempt is over

    def tell(self, event: str, *arguments: Any) -> None:
        """A listener's fault must not end the sweep: Tune would stop on it."""
        for listener in self.listeners:
            try:
                getattr(listener, event)(*arguments)
            except Exception as error:
                self.errors.append(f"{type(listener).__name__}.{event}: {one_line(error)}")


_CAUSES = {  # what Ray says at some length -> in a few words
    "running low on memory": "its node ran low on memory, and Ray ended it",
    "node died": "its node died",
    "terminated unexpectedly": "its node died",
    "connection error code 2": "its process was killed (SIGKILL, as when out of memory), crashed or ended itself",
}


def _death(error: str) -> str:
    """What ended a worker again and again: in a line, and all that Ray says of it."""
    lines = [line.strip() for line in error.strip().splitlines() if line.strip()]
    why = next((words for text, words in _CAUSES.items() if text in error), lines[-1] if lines else "no reason given")
    return f"the worker ended {RETRIES + 1} times without getting further: {why}\n\n{error}"


class _Handout(Searcher):
    """Hands the schedule's trials to Tune, cohort by cohort."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        """A cohort, ``None`` to be asked again later, or FINISHED."""
        if self._bridge.again:
            return self._bridge.hand_out(trial_id, *self._bridge.again.popleft())
        if self._bridge.enough_waiting:
            return None
        try:
            cohort = self._bridge.schedule.next_cohort(self._bridge.job.together, self._bridge.slots)
        except OutputError as error:
            self._bridge.stop(error)
            return None
        if isinstance(cohort, Next):
            return None if cohort is Next.WAIT else Searcher.FINISHED
        return self._bridge.hand_out(trial_id, cohort)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Results have come through the callback; what has none by now never will. Of an error the callback knows."""
        if not error:
            self._bridge.over(trial_id, "the trial ended without a result")

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
        if self._bridge.stopping or self._bridge.lost():
            raise _Stopped
        self._bridge.look(trials)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker begins with a cohort."""
        self._bridge.begin(trial)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """An epoch or a result."""
        self._bridge.result(trial.trial_id, result)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker or node died, or our own code is wrong."""
        error = ""
        with suppress(OSError, TypeError):  # get_error() reads the copy in the storage, which comes seconds later
            error = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
        self._bridge.over(trial.trial_id, error)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles callbacks into a snapshot that is never read."""
        return {}
