"""MLflow: one experiment a study, one parent run a launch, one child run a trial. The only file that imports mlflow.

The driver alone writes, from one thread, in batches. A run is found again by the identity of its trial, metrics carry
timestamps made from the run's start and the step, so that writing the same trial twice leaves one of each.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import math
import os
import platform
import queue
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import hpo.environment  # noqa: F401  isort: skip - before mlflow
import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from hpo import __version__
from hpo.backend import UI_VIEW, TrackingError, check_answers, first_line, is_server, machine, shown_uri, sqlite_path
from hpo.plan import Planned
from hpo.trial import AVERAGES, EpochReport, TrialConfig, TrialResult

FLUSH_SECONDS = 1.0  # between two requests for one running trial
CLOSE_SECONDS = 60.0  # to deliver what is left
TRAJECTORY = "trajectory.parquet"
CONFIG_CHARACTERS = 8000  # MLflow cuts a longer tag
MLFLOW_INFINITY = 1.7976931348623157e308  # what MLflow stores for it
ENDED = ("finished", "diverged", "failed")
LAUNCH, TRIAL = "launch", "trial"

logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow").setLevel(logging.ERROR)


@dataclass
class Record:
    """A trial as MLflow holds it."""

    run_id: str
    config: TrialConfig
    result: TrialResult


class Tracking:
    """The experiment of one study.

    Args:
        uri: of the backend: ``http(s)://``, ``sqlite:///``, ``postgresql://``, ...
        study: name of the study and of the experiment.
        output: folder whose ``artifacts/`` a local backend stores artifacts in.
        create: make database and experiment if they are not there.

    Raises:
        TrackingError: the backend does not answer or cannot be used; the study is not there and must not be created.
    """

    def __init__(self, uri: str, study: str, output: Path, create: bool = True) -> None:
        self.uri, self.study = uri, study
        shown = shown_uri(uri)
        if not create and (path := sqlite_path(uri)) and not path.exists():
            raise TrackingError(f"--tracking-uri: {shown} holds no study; run it first: gradsweep run")
        check_answers(uri)
        try:
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(study)
            if found is None and create:
                found = self._create(output)
        except Exception as error:  # SQLAlchemy, requests and MLflow each have their own
            raise TrackingError(f"--tracking-uri: {shown} cannot be used: {first_line(error, uri)}") from None
        if found is None:
            raise TrackingError(f"--tracking-uri: {shown} holds no study {study!r}; run it first: gradsweep run")
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"--tracking-uri: the experiment {study!r} was deleted in MLflow; restore or rename it"
            )
        self.experiment_id: str = found.experiment_id
        self._runs: dict[str, str] = {}  # identity -> run id
        self._scores: dict[str, dict[str, float]] = {}  # identity -> scores that its run held when it was read

    def _create(self, output: Path) -> Experiment:
        location = None  # a server has its own
        if not is_server(self.uri):
            location = (output / "artifacts" / self.study).resolve().as_uri()
        if path := sqlite_path(self.uri):
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA journal_mode=wal")  # readers and the writer do not wait for each other
        tags = {"gradsweep.version": __version__, "mlflow.experimentKind": "custom_model_development"}
        with contextlib.suppress(MlflowException):  # another launch may have been first
            self.client.create_experiment(self.study, artifact_location=location, tags=tags)
        found = self.client.get_experiment_by_name(self.study)
        assert found is not None
        return found

    def records(self) -> list[Record]:
        """Every trial of the experiment that has reached an end."""
        records = []
        for run in self._search(TRIAL):
            identity = run.data.tags["gradsweep.identity"]
            self._runs[identity] = run.info.run_id
            self._scores[identity] = {key: v for key, v in run.data.metrics.items() if key.startswith("score/")}
            if run.info.status in ("FINISHED", "FAILED") and run.data.tags["gradsweep.status"] in ENDED:
                records.append(_record(run))
        return records

    def reconcile(self) -> int:
        """Close the runs that a killed driver left open; their trials run again, in the same runs. How many."""
        stale = [run for run in [*self._search(TRIAL), *self._search(LAUNCH)] if run.info.status == "RUNNING"]
        for run in stale:
            self.client.set_tag(run.info.run_id, "gradsweep.status", "interrupted")
            self.client.set_terminated(run.info.run_id, "KILLED")
        return len(stale)

    def start_launch(self, study_file: str) -> str:
        """Open the parent run of a launch."""
        number = len(self._search(LAUNCH)) + 1
        tags = {
            "mlflow.runName": f"{self.study} launch {number}",
            "gradsweep.kind": LAUNCH,
            "gradsweep.status": "running",
            "gradsweep.python": platform.python_version(),
            "gradsweep.machine": machine(),
            **_source_tags(),
        }
        run_id: str = self.client.create_run(self.experiment_id, tags=tags).info.run_id
        self.client.log_text(run_id, study_file, "study.yaml")
        return run_id

    def latest_launch(self) -> str | None:
        """The parent run of the last launch."""
        launches = self._search(LAUNCH)
        return max(launches, key=lambda run: run.info.start_time).info.run_id if launches else None

    def end_launch(self, run_id: str, status: str) -> None:
        """Close a parent run; status ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_tag(run_id, "gradsweep.status", "interrupted" if status == "KILLED" else status.lower())
        self.client.set_terminated(run_id, status)

    def log_report(self, run_id: str, files: Sequence[Path], note: str, metrics: Mapping[str, float]) -> None:
        """Attach the report to a parent run; ``note`` (Markdown) is what the UI shows as its description."""
        for file in files:
            self.client.log_artifact(run_id, str(file), "report")
        self.client.set_tag(run_id, "mlflow.note.content", note)
        self.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", note)
        self.client.log_batch(run_id, metrics=[Metric(k, v, _now(), 0) for k, v in metrics.items()])

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
                self.client.log_batch(run.info.run_id, metrics=[Metric(k, v, _now(), 0) for k, v in new.items()])

    def fault(self, error: Exception) -> str:
        """An error of the backend in one line."""
        return f"{type(error).__name__}: {first_line(error, self.uri)}"

    def trajectory(self, identity: str) -> pd.DataFrame | None:
        """The per-step trajectory of a trial: columns ``step`` and ``w/<task>``, ``G/``, ``r/``, ``L/``."""
        run_id = self._runs.get(identity)
        if run_id is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                return pd.read_parquet(self.client.download_artifacts(run_id, TRAJECTORY, folder))
            except (MlflowException, OSError):
                return None

    def links(self) -> dict[str, str]:
        """For each trial the address of its run: of its page where a server shows it, else its id."""
        page = f"{shown_uri(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}/runs/"
        return {
            identity: f"{page}{run_id}?{UI_VIEW}" if is_server(self.uri) else run_id
            for identity, run_id in self._runs.items()
        }

    def run_of(self, identity: str) -> str | None:
        """The run of a trial that was ever begun."""
        return self._runs.get(identity)

    def add(self, identity: str, run_id: str) -> None:
        """Remember the run of a trial that was begun just now."""
        self._runs[identity] = run_id

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


@dataclass
class _Pending:
    """What is still to be written of one trial."""

    planned: Planned
    started: int  # milliseconds
    epochs: list[EpochReport] = field(default_factory=list)
    result: TrialResult | None = None
    ended: int = 0
    run_id: str | None = None
    earlier: dict[str, float] = field(default_factory=dict)  # what the run holds of an earlier launch
    artifacts: str = ""  # where the run keeps them
    has_params: bool = False
    flushed: float = 0.0


class Writer:
    """A `hpo.listener.Listener` that writes trials to MLflow from one thread; it never raises into the driver.

    Args:
        tracking: the experiment.
        launch: the parent run.
    """

    def __init__(self, tracking: Tracking, launch: str) -> None:
        self._tracking, self._launch = tracking, launch
        self._queue: queue.SimpleQueue[tuple[str, Any, Any, int] | None] = queue.SimpleQueue()
        self._pending: dict[str, _Pending] = {}
        self._closing = threading.Event()
        self.faults = 0
        self.last_fault = ""
        self._thread = threading.Thread(target=self._work, name="mlflow-writer", daemon=True)
        self._thread.start()

    def trial_started(self, planned: Planned) -> None:
        """See `Listener`."""
        self._put("start", planned, None)

    def trial_reported(self, planned: Planned, report: EpochReport) -> None:
        """See `Listener`."""
        self._put("epoch", planned, report)

    def trial_ended(self, planned: Planned, result: TrialResult) -> None:
        """See `Listener`."""
        self._put("end", planned, result)

    def close(self) -> list[str]:
        """Write what is left and close the runs of trials that did not end. Names of trials not in MLflow."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS + 10)
        return [pending.planned.name for pending in self._pending.values() if pending.result is not None]

    def _put(self, event: str, planned: Planned, content: Any) -> None:
        self._queue.put((event, planned, content, _now()))

    def _work(self) -> None:
        while not self._closing.is_set():
            self._take(block=True)
            self._flush(every=FLUSH_SECONDS)
        self._take(block=False)
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._pending and time.monotonic() < deadline and not self._flush(every=0.0):
            self._closing.wait(0)
            time.sleep(1.0)  # the backend refused; it may come back
        self._kill_open()

    def _take(self, block: bool) -> None:
        """Move what the driver has told into the pending trials."""
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(block, FLUSH_SECONDS) if block else self._queue.get_nowait()
            while True:
                if item is not None:
                    self._note(*item)
                item = self._queue.get_nowait()

    def _note(self, event: str, planned: Planned, content: Any, now: int) -> None:
        identity = planned.config.identity
        pending = self._pending.setdefault(identity, _Pending(planned, now))
        if event == "epoch":
            pending.epochs.append(content)
        elif event == "end":
            pending.result, pending.ended = content, now

    def _flush(self, every: float) -> bool:
        """Write the trials that are due; false if the backend refused."""
        for identity, pending in list(self._pending.items()):
            due = pending.result is not None or pending.run_id is None or pending.epochs
            if not due or (pending.result is None and time.monotonic() - pending.flushed < every):
                continue
            try:
                self._write(pending)
            except Exception as error:  # a fault of the backend must not reach Tune
                self.faults += 1
                self.last_fault = self._tracking.fault(error)
                self._pending[identity] = self._pending.pop(identity)  # if it is at fault, let others pass
                return False
            if pending.result is not None:
                del self._pending[identity]
        return True

    def _write(self, pending: _Pending) -> None:
        """Few calls: each is a transaction or a request."""
        client, pending.flushed = self._tracking.client, time.monotonic()
        result = pending.result
        run_id = pending.run_id or self._open(pending)
        metrics = [metric for report in pending.epochs for metric in _epoch_metrics(report, pending.started)]
        if result is not None:
            metrics += [m for m in _result_metrics(result, pending.ended) if pending.earlier.get(m.key) != m.value]
        params = [] if pending.has_params else _params(pending.planned.config)
        client.log_batch(run_id, metrics, params, _end_tags(result) if result else [])
        pending.has_params = True
        pending.epochs.clear()
        if result is None:
            return
        self._write_trajectory(pending, result)
        status = "FAILED" if result.status == "failed" else "FINISHED"
        client.set_terminated(run_id, status, pending.ended)  # last: a run that has ended has everything

    def _open(self, pending: _Pending) -> str:
        """Find or create the run of a trial."""
        identity = pending.planned.config.identity
        tags = _start_tags(pending.planned, self._launch)
        known = self._tracking.run_of(identity)
        if known is None:
            run = self._tracking.client.create_run(
                self._tracking.experiment_id,
                start_time=pending.started,
                tags=tags,
                run_name=pending.planned.name,
            )
            known = run.info.run_id
            self._tracking.add(identity, known)
        else:
            run = self._tracking.client.get_run(known)
            pending.started, pending.earlier = run.info.start_time, run.data.metrics
            self._tracking.client.update_run(known, status="RUNNING", name=pending.planned.name)
            self._tracking.client.log_batch(known, tags=[RunTag(k, v) for k, v in tags.items()])
        pending.run_id, pending.artifacts = known, run.info.artifact_uri
        return known

    def _write_trajectory(self, pending: _Pending, result: TrialResult) -> None:
        if not result.trajectory:
            return
        tasks = list(result.initial_losses)
        columns = {"step": result.trajectory["step"]}
        for name in ("w", "G", "r", "L"):
            columns |= {f"{name}/{task}": result.trajectory[name][:, i] for i, task in enumerate(tasks)}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / TRAJECTORY
            pd.DataFrame(columns).to_parquet(path, index=False)
            get_artifact_repository(pending.artifacts, self._tracking.uri).log_artifact(str(path))

    def _kill_open(self) -> None:
        """Close the runs of trials that were stopped; the next launch continues them."""
        for pending in self._pending.values():
            if pending.result is None and pending.run_id is not None:
                with contextlib.suppress(Exception):
                    self._tracking.client.set_tag(pending.run_id, "gradsweep.status", "interrupted")
                    self._tracking.client.set_terminated(pending.run_id, "KILLED")


def _now() -> int:
    return int(time.time() * 1000)


def _source_tags() -> dict[str, str]:
    tags = {"mlflow.user": _user(), "mlflow.source.name": "gradsweep", "mlflow.source.type": "LOCAL"}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        tags["mlflow.source.git.commit"] = commit.stdout.strip()
    return tags | {"gradsweep.version": __version__, "gradsweep.torch": torch.__version__}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _start_tags(planned: Planned, launch: str) -> dict[str, str]:
    config = planned.config
    return {
        "mlflow.parentRunId": launch,
        "mlflow.user": _user(),
        "mlflow.source.name": "gradsweep",
        "gradsweep.kind": TRIAL,
        "gradsweep.identity": config.identity,
        **_config_tags(config),
        "gradsweep.phase": planned.phase,
        "gradsweep.arm": planned.arm,
        "gradsweep.method": config.method,
        "gradsweep.seed": str(config.seed),
        "gradsweep.status": "running",
        "gradsweep.error": "",
        "gradsweep.version": __version__,
        "gradsweep.torch": torch.__version__,
    }


def _config_tags(config: TrialConfig) -> dict[str, str]:
    """The config as JSON, in as many tags as it needs."""
    text = json.dumps(asdict(config))
    starts = range(0, len(text), CONFIG_CHARACTERS)
    return {f"gradsweep.config{f'.{i}' if i else ''}": text[k : k + CONFIG_CHARACTERS] for i, k in enumerate(starts)}


def _config_of(tags: Mapping[str, str]) -> TrialConfig:
    """The inverse of `_config_tags`."""
    text, i = tags["gradsweep.config"], 1
    while part := tags.get(f"gradsweep.config.{i}"):
        text, i = text + part, i + 1
    return TrialConfig(**json.loads(text))


def _end_tags(result: TrialResult) -> list[RunTag]:
    tags = {"gradsweep.status": result.status, "gradsweep.error": result.error[:4000]}
    tags |= {"gradsweep.alarms": json.dumps(result.alarms)} if result.alarms else {}
    tags |= {"gradsweep.tasks": json.dumps(list(result.initial_losses))}
    return [RunTag(key, value) for key, value in tags.items()]


def _params(config: TrialConfig) -> list[Param]:
    """What decides the trial; nothing that a later launch may name otherwise."""
    flat: dict[str, Any] = {"method": config.method, "seed": config.seed, "epochs": config.epochs}
    for key, value in config.settings.items():
        flat |= {f"{key}/{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {key: value}
    flat |= {"problem": config.problem, "data_hash": config.data_hash, "test": config.test}
    flat |= {f"problem/{key}": value for key, value in config.arguments.items()}
    return [Param(key, str(value)[:6000]) for key, value in flat.items()]


def _epoch_metrics(report: EpochReport, started: int) -> Iterator[Metric]:
    """Their times are made from run and epoch, so that a trial that begins again writes the same points."""
    groups = {
        "loss": report.loss,
        "val": report.validation,
        "w": report.weights,
        "G": report.gradient_norms,
        "r": report.rates,
    }
    for group, values in groups.items():
        for task, value in values.items():
            yield Metric(f"{group}/{task}", value, started + report.epoch, report.epoch)


def _result_metrics(result: TrialResult, ended: int) -> Iterator[Metric]:
    """Their time is that of the end, so that of a trial that failed and ran again the last values count."""
    yield Metric("steps", float(result.steps), ended, 0)
    yield Metric("seconds", result.seconds, ended, 0)
    groups = {"final_val": result.validation, "test": result.test, "train": result.train}
    groups |= {"initial_loss": result.initial_losses}
    groups |= {f"mean_w_{name}": result.averages.get(name, {}) for name in AVERAGES}
    for group, values in groups.items():
        for task, value in values.items():
            yield Metric(f"{group}/{task}", value, ended, 0)


def _record(run: Run) -> Record:
    tags, metrics = run.data.tags, run.data.metrics

    def group(name: str) -> dict[str, float]:
        prefix = f"{name}/"
        return {key.removeprefix(prefix): _finite_or_not(v) for key, v in metrics.items() if key.startswith(prefix)}

    result = TrialResult(
        status=tags["gradsweep.status"],
        steps=int(metrics.get("steps", 0)),
        seconds=metrics.get("seconds", 0.0),
        validation=group("final_val"),
        test=group("test"),
        train=group("train"),
        averages={name: group(f"mean_w_{name}") for name in AVERAGES},
        initial_losses=group("initial_loss"),
        alarms=json.loads(tags.get("gradsweep.alarms", "[]")),
        error=tags.get("gradsweep.error", ""),
    )
    return Record(run.info.run_id, _config_of(tags), result)


def _finite_or_not(value: float) -> float:
    """A number that MLflow has stored; it takes NaN, and the largest number for infinity."""
    return math.copysign(math.inf, value) if abs(value) >= MLFLOW_INFINITY else value
