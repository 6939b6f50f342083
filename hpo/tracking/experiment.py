"""MLflow: one experiment a study, one parent run a launch, one child run a trial.

The driver alone writes, from one thread (`hpo.tracking.delivery`), in batches. A run is found again by the identity
of its trial; metrics carry timestamps made from the run's start and the step, so writing a trial twice leaves one of
each.
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from hpo import __version__
from hpo.core.errors import LaunchLostError, TrackingError
from hpo.core.trial import EpochReport, PlannedTrial, TrialStatus
from hpo.core.uris import public, shown
from hpo.tracking.backend import UI_VIEW, check_answers, first_line, holds_no_study, is_server, machine, sqlite_path
from hpo.tracking.database import move_artifacts, prepare_database, write_ahead
from hpo.tracking.outbox import TRAJECTORY, EndedTrial, write_trajectory
from hpo.tracking.run_format import (
    LAUNCH,
    TRIAL,
    Record,
    end_tags,
    epoch_metrics,
    read_record,
    result_metrics,
    run_params,
    source_tags,
    start_tags,
)

ENDED_STATUSES = tuple(status for status in TrialStatus if status.has_ended)
FINAL_STATUSES = tuple(status for status in TrialStatus if status.is_final)
STUDY_FILE = "study.yaml"
BEAT = "gradsweep.alive"  # milliseconds since the epoch of a launch's last sign of life

logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs whole tracebacks of what we say in a line


P = ParamSpec("P")
R = TypeVar("R")


def _or_tracking_error(
    method: Callable[Concatenate[StudyExperiment, P], R],
) -> Callable[Concatenate[StudyExperiment, P], R]:
    """What a backend says against a request before any trial runs, in a line and without the URI's password."""

    @wraps(method)
    def asked(store: StudyExperiment, /, *arguments: P.args, **named: P.kwargs) -> R:
        try:
            return method(store, *arguments, **named)
        except LaunchLostError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have their own
            line = first_line(error, store.uri)
            raise TrackingError(f"--tracking-uri: {shown(store.uri)} cannot be used: {line}") from None

    return asked


def _as_owner(method: Callable[Concatenate[StudyExperiment, P], R]) -> Callable[Concatenate[StudyExperiment, P], R]:
    """Look whether the study is still this launch's before anything is written.

    A driver that was suspended (a closed laptop, a paused virtual machine) cannot know by a clock how long that was.
    """

    @wraps(method)
    def written(store: StudyExperiment, /, *arguments: P.args, **named: P.kwargs) -> R:
        if store.asked.depth == 0:  # one question for what calls another of these
            store.check_owner()
        store.asked.depth += 1
        try:
            return method(store, *arguments, **named)
        finally:
            store.asked.depth -= 1

    return written


class _Asked(threading.local):
    """How many guarded writes this thread is in."""

    depth = 0


@dataclass
class OpenRun:
    """The run of a trial that is being written.

    Attributes:
        run_id: MLflow's.
        started: milliseconds; the times of its metrics count from here.
        earlier: metrics that an earlier launch left.
        ended: when the run ended before, in milliseconds; 0 if it never did.
        artifacts: where it keeps artifacts.
        has_params: whether its parameters have been written.
    """

    run_id: str
    started: int
    earlier: dict[str, float]
    artifacts: str
    has_params: bool = False
    ended: int = 0


@dataclass
class OpenLaunch:
    """A launch that has not ended, or whose driver was killed; ``alive`` changes while it lives."""

    run_id: str
    host: str
    pid: int
    started: int
    alive: str


class StudyExperiment:
    """The experiment of one study.

    Args:
        uri: of the backend: ``http(s)://``, ``sqlite:///``, ``postgresql://``, ...
        study: name of the study and of the experiment.
        output: folder whose ``artifacts/`` a local backend stores artifacts in.
        create: make database and experiment if they are not there.
        making: called before an SQLite database is made, which takes seconds.

    Raises:
        TrackingError: the backend does not answer or cannot be used; the study is not there and must not be created.
    """

    def __init__(
        self, uri: str, study: str, output: Path, create: bool = True, making: Callable[[], object] = str
    ) -> None:
        self.uri, self.study = uri, study
        where = shown(uri)
        check_answers(uri)
        try:
            if path := sqlite_path(uri):
                if create:
                    prepare_database(path, (output / "artifacts").resolve(), making)
                elif holds_no_study(path):
                    raise TrackingError(f"--tracking-uri: {where} holds no study; run it first: gradsweep run")
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(study)
            if found is None and create:
                found = self._create(output)
        except TrackingError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have their own
            raise TrackingError(f"--tracking-uri: {where} cannot be used: {first_line(error, uri)}") from None
        if found is None:
            raise TrackingError(f"--tracking-uri: {where} holds no study {study!r}; run it first: gradsweep run")
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"--tracking-uri: the experiment {study!r} was deleted in MLflow; restore or rename it"
            )
        self.experiment_id: str = found.experiment_id
        self._location: str = found.artifact_location
        self._runs: dict[str, str] = {}  # identity -> run id
        self._knows_runs = False  # whether `records` has filled them
        self._unsure: set[str] = set()  # identities whose run a request was to create that has failed
        self._scores: dict[str, dict[str, float]] = {}  # identity -> scores that its run held when it was read
        self._launch = ""  # the parent run of this driver, once it is open
        self._dead: frozenset[str] | None = None  # launches that were found dead; ``None`` before anybody has looked
        self._launches: frozenset[str] | None = None  # all that there were when the trials were read
        self._unverified: set[str] = set()  # runs that were made since the backend last said that this launch is open
        self.asked = _Asked()

    def _create(self, output: Path) -> Experiment:
        location = None  # a server has its own
        if not is_server(self.uri):
            location = (output / "artifacts" / self.study).resolve().as_uri()
        if path := sqlite_path(self.uri):
            write_ahead(path)
        tags = {"gradsweep.version": __version__, "mlflow.experimentKind": "custom_model_development"}
        with contextlib.suppress(MlflowException):  # another launch may have been first
            self.client.create_experiment(self.study, artifact_location=location, tags=tags)
        found = self.client.get_experiment_by_name(self.study)
        assert found is not None
        return found

    @_or_tracking_error
    def follow_move(self, output: Path) -> None:
        """Look for artifacts beside the embedded database, wherever its folder was moved or copied to.

        Only for who holds the study's lock: a launch that runs knows the folder by the name that it has for it.
        """
        path, here = sqlite_path(self.uri), (output / "artifacts" / self.study).resolve()
        if path is None or path.parent.resolve() != output.resolve() or not here.is_dir():
            return
        if self._location != here.as_uri():
            move_artifacts(path, self.experiment_id, self._location, here.as_uri())
            self._location = here.as_uri()

    @_or_tracking_error
    def records(self) -> list[Record]:
        """Every trial of the experiment that has reached an end."""
        self._launches = frozenset(run.info.run_id for run in self._search(LAUNCH))
        records, ended = [], set()
        for run in self._search(TRIAL):
            identity = run.data.tags["gradsweep.identity"]
            if identity in ended:  # two drivers that knew nothing of each other have left two runs
                continue
            self._runs[identity] = run.info.run_id
            self._scores[identity] = {key: v for key, v in run.data.metrics.items() if key.startswith("score/")}
            if run.info.status in ("FINISHED", "FAILED") and run.data.tags["gradsweep.status"] in ENDED_STATUSES:
                ended.add(identity)
                records.append(read_record(run))
        self._knows_runs = True
        return records

    def take_over(self, dead: Collection[str]) -> None:
        """Let this driver write: no launch is alive but those whose signs of life have been looked for in vain.

        Args:
            dead: their parent runs.
        """
        self._dead = frozenset(dead)

    @_or_tracking_error
    def reconcile(self) -> int:
        """Close the runs that a killed driver left open; their trials run again, in the same runs. How many.

        Raises:
            LaunchLostError: another launch has begun since `take_over`.
        """
        stale = [run for run in [*self._search(TRIAL), *self._search(LAUNCH)] if run.info.status == "RUNNING"]
        stale = [run for run in stale if run.info.run_id != self._launch]
        for run in stale:
            self.interrupt(run.info.run_id)
        return len(stale)

    @_or_tracking_error
    def start_launch(self, study_file: str) -> str:
        """Open the parent run of a launch.

        Raises:
            LaunchLostError: another launch has begun since `records`.
        """
        number = len(self._search(LAUNCH)) + 1
        tags = {
            "mlflow.runName": f"{self.study} launch {number}",
            "gradsweep.kind": LAUNCH,
            "gradsweep.status": "running",
            "gradsweep.python": platform.python_version(),
            "gradsweep.machine": machine(),
            "gradsweep.host": socket.gethostname(),
            "gradsweep.pid": str(os.getpid()),
            BEAT: str(now()),
            **source_tags(),
        }
        own = self._create_run(tags=tags)
        run_id: str = own.info.run_id
        self._launch = run_id
        self._check_unchanged(own)
        self.client.log_text(run_id, study_file, STUDY_FILE)
        return run_id

    def _check_unchanged(self, own: Run) -> None:
        """See that no launch has begun between the reading of the trials and this one: its results would be missing.

        Of two that start at once the later gives way.

        Raises:
            LaunchLostError: one has, be it over or not.
        """

        def order(run: Run) -> tuple[int, str]:
            return run.info.start_time, run.info.run_id

        new = [run for run in self._search(LAUNCH) if self._launches is not None and order(run) < order(own)]
        if not {run.info.run_id for run in new}.difference(self._launches or ()):
            return
        self.interrupt(own.info.run_id)
        raise LaunchLostError(
            f"another launch of study {self.study!r} has begun while this one started (it was suspended, or Ray took "
            "long); the same command goes on from what that one leaves"
        )

    def check_owner(self) -> None:
        """Ask the backend whether the study is this driver's: who takes a study over closes the launches before.

        Raises:
            LaunchLostError: another launch has closed this one, or has begun before this one was open.
        """
        if not self._is_lost():
            self._unverified.clear()
            return
        for run_id in self._unverified:
            with contextlib.suppress(Exception):  # the backend may be away
                self._disown(run_id)
        raise self._lost()

    def _disown(self, run_id: str) -> None:
        """Remove a run that was made when the other launch had read the runs, and of which it does not know.

        Those that it knows of it has closed, or has taken for its own.
        """
        run = self.client.get_run(run_id)
        if run.info.status == "RUNNING" and run.data.tags.get("mlflow.parentRunId") == self._launch:
            self.client.delete_run(run_id)

    def _is_lost(self) -> bool:
        if self._launch:
            return bool(self.client.get_run(self._launch).info.status != "RUNNING")
        return self._dead is not None and any(run.run_id not in self._dead for run in self.open_launches())

    def _lost(self) -> LaunchLostError:
        newest = max(self.open_launches(), key=lambda launch: launch.started, default=None)
        who = f"on {newest.host} (process {newest.pid}) " if newest else ""
        return LaunchLostError(
            f"another launch of study {self.study!r} {who}has taken it over, since this one gave no sign of life for "
            "a while (it was suspended, or cut off from MLflow)"
        )

    @_or_tracking_error
    def open_launches(self) -> list[OpenLaunch]:
        """The launches that nobody has closed."""
        runs = [run for run in self._search(LAUNCH) if run.info.status == "RUNNING"]
        return [
            OpenLaunch(
                run.info.run_id,
                run.data.tags.get("gradsweep.host", "an unknown machine"),
                int(run.data.tags.get("gradsweep.pid", "0")) or os.getpid(),
                run.info.start_time,
                run.data.tags.get(BEAT, ""),
            )
            for run in runs
        ]

    def study_file(self, launch: str, folder: str) -> Path | None:
        """A copy, in ``folder``, of the study file that a launch ran; ``None`` if it is not there."""
        try:
            return Path(self.client.download_artifacts(launch, STUDY_FILE, folder))
        except (MlflowException, OSError):
            return None

    @_or_tracking_error
    def latest_launch(self) -> str | None:
        """The parent run of the last launch."""
        launches = self._search(LAUNCH)
        return max(launches, key=lambda run: run.info.start_time).info.run_id if launches else None

    @_as_owner
    def end_launch(self, run_id: str, status: str) -> None:
        """Close a parent run; status ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_tag(run_id, "gradsweep.status", "interrupted" if status == "KILLED" else status.lower())
        self.client.set_terminated(run_id, status)

    @_as_owner
    def log_report(self, run_id: str, files: Sequence[Path], note: str, metrics: Mapping[str, float]) -> None:
        """Attach the report to a parent run; ``note`` (Markdown) is what the UI shows as its description."""
        for file in files:
            self.client.log_artifact(run_id, str(file), "report")
        self.client.set_tag(run_id, "mlflow.note.content", note)
        self.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", note)
        self.client.log_batch(run_id, metrics=[Metric(k, v, now(), 0) for k, v in metrics.items()])

    @_as_owner
    def log_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Add scores to the runs of trials, by identity, so that the UI can sort by them.

        Nothing is asked of the backend if `records` has seen them all there: reading 1,000 runs takes seconds.
        """
        if all(self._scores.get(identity, {}).items() >= wanted.items() for identity, wanted in scores.items()):
            return
        self._scores.clear()  # known no longer, from here on
        for run in self._search(TRIAL):
            wanted = scores.get(run.data.tags["gradsweep.identity"], {})
            new = {name: value for name, value in wanted.items() if run.data.metrics.get(name) != value}
            if new:
                self.client.log_batch(run.info.run_id, metrics=[Metric(k, v, now(), 0) for k, v in new.items()])

    def fault(self, error: Exception) -> str:
        """An error of the backend in one line."""
        return f"{type(error).__name__}: {first_line(error, self.uri)}"

    def has_result(self, identity: str) -> bool:
        """Whether MLflow holds a trial to an end that is a result, so that it need not run again."""
        for run in self.client.search_runs([self.experiment_id], f"tags.`gradsweep.identity` = '{identity}'"):
            if run.info.status == "FINISHED" and run.data.tags["gradsweep.status"] in FINAL_STATUSES:
                return True
        return False

    def trajectory(self, identity: str) -> pd.DataFrame | None:
        """The per-step trajectory of a trial: columns ``step`` and ``w/<task>``, ``G/``, ``r/``, ``L/``."""
        run_id = self._runs.get(identity)
        if run_id is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                return pd.read_parquet(self.client.download_artifacts(run_id, TRAJECTORY, folder))
            except (MlflowException, OSError, ValueError):  # ValueError: a file that is torn
                return None

    def links(self) -> dict[str, str]:
        """For each trial the address of its run: of its page where a server shows it, else its id."""
        page = f"{public(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}/runs/"
        return {
            identity: f"{page}{run_id}?{UI_VIEW}" if is_server(self.uri) else run_id
            for identity, run_id in self._runs.items()
        }

    def run_of(self, identity: str) -> str | None:
        """The run of a trial that was ever begun."""
        return self._runs.get(identity)

    @_as_owner
    def open(self, planned: PlannedTrial, launch: str, started: int) -> OpenRun:
        """Find or create the run of a trial, which then is RUNNING."""
        identity, tags = planned.config.identity, start_tags(planned, launch)
        known = self._runs.get(identity) or self._unknown_run(identity)
        run = self.client.get_run(known) if known else None
        if known is None or run is None or run.info.lifecycle_stage == "deleted":
            self._unsure.add(identity)
            made = self._create_run(start_time=started, tags=tags, run_name=planned.name)
            self._unsure.discard(identity)
            self._runs[identity] = made.info.run_id
            self._unverified.add(made.info.run_id)
            self.check_owner()
            return OpenRun(made.info.run_id, started, {}, made.info.artifact_uri)
        self._runs[identity] = known
        self.client.update_run(known, status="RUNNING", name=planned.name)
        self.client.log_batch(known, tags=[RunTag(k, v) for k, v in tags.items()])
        info = run.info
        return OpenRun(known, info.start_time, run.data.metrics, info.artifact_uri, ended=info.end_time or 0)

    @_as_owner
    def write_epochs(self, run: OpenRun, planned: PlannedTrial, epochs: Sequence[EpochReport]) -> None:
        """Add epochs to the run of a trial."""
        self._log(run, planned, [metric for report in epochs for metric in epoch_metrics(report, run.started)], [])

    @_as_owner
    def write(self, entry: EndedTrial, run: OpenRun | None = None, written: int = 0) -> None:
        """Write a trial to its end, in few calls: each is a transaction or a request. Twice leaves one of each.

        Args:
            entry: the trial.
            run: its run, if it is open.
            written: how many of its epochs the run holds.
        """
        run = run or self.open(entry.planned, entry.launch, entry.started)
        result = entry.result
        metrics = [metric for report in entry.epochs[written:] for metric in epoch_metrics(report, run.started)]
        ended = max(entry.ended, run.ended + 1)  # a clock that went back must not let the values before count
        metrics += [m for m in result_metrics(result, ended) if run.earlier.get(m.key) != m.value]
        self._log(run, entry.planned, metrics, end_tags(result))
        with tempfile.TemporaryDirectory() as folder:  # for an entry that the journal could not keep
            if trajectory := entry.trajectory or write_trajectory(result, Path(folder)):
                get_artifact_repository(run.artifacts, self.uri).log_artifact(str(trajectory))
        status = "FAILED" if result.status is TrialStatus.FAILED else "FINISHED"
        self.client.set_terminated(run.run_id, status, ended)  # last: a run that has ended has everything

    @_as_owner
    def interrupt(self, run_id: str) -> None:
        """Close a run that was stopped."""
        self.client.set_tag(run_id, "gradsweep.status", "interrupted")
        self.client.set_terminated(run_id, "KILLED")

    def beat(self, launch: str) -> None:
        """Leave a sign of life of this driver; from any thread.

        Raises:
            LaunchLostError: another launch has taken the study over.
        """
        if self._is_lost():
            raise self._lost()
        self.client.set_tag(launch, BEAT, str(now()))

    def _log(self, run: OpenRun, planned: PlannedTrial, metrics: list[Metric], tags: list[RunTag]) -> None:
        params = [] if run.has_params else run_params(planned.config)
        if metrics or params or tags:
            self.client.log_batch(run.run_id, metrics, params, tags)
        run.has_params = True

    def _create_run(self, **content: Any) -> Run:
        """Ask once: a server that dies after it has made a run and before it says so would be asked for another."""
        with _environment("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"):
            return self.client.create_run(self.experiment_id, **content)

    def _unknown_run(self, identity: str) -> str | None:
        """A run that `records` has not seen, or that a request has created whose answer was lost."""
        if self._knows_runs and identity not in self._unsure:
            return None
        wanted = f"tags.`gradsweep.identity` = '{identity}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def _search(self, kind: str) -> list[Run]:
        runs: list[Run] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                f"tags.`gradsweep.kind` = '{kind}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable that MLflow reads at each call."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def now() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)
