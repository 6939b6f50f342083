"""Launches of a study in MLflow: their parent runs, their heartbeats, and which of them may write."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, TypeVar

from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException

from hpo.core.errors import LaunchLostError
from hpo.tracking.backend import machine
from hpo.tracking.experiment_base import Experiment, P, R, now, or_tracking_error
from hpo.tracking.run_format import LAUNCH, TRIAL, source_tags

STUDY_FILE = "study.yaml"
BEAT = "gradsweep.alive"  # milliseconds since the epoch of a launch's last heartbeat
L = TypeVar("L", bound="LaunchRuns")


def as_owner(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
    """Check that this launch still owns the study before anything is written.

    A driver that was suspended (a closed laptop, a paused virtual machine) cannot tell by a clock for how long.
    """

    @wraps(method)
    def written(store: L, /, *arguments: P.args, **named: P.kwargs) -> R:
        if store.asked.depth == 0:  # nested guarded writes ask once
            store.check_owner()
        store.asked.depth += 1
        try:
            return method(store, *arguments, **named)
        finally:
            store.asked.depth -= 1

    return written


class _Asked(threading.local):
    """The number of nested guarded writes of this thread."""

    depth = 0


@dataclass
class OpenLaunch:
    """A launch that has not ended or whose driver was killed; ``alive`` changes with each heartbeat."""

    run_id: str
    host: str
    pid: int
    started: int
    alive: str


class LaunchRuns(Experiment):
    """An experiment with the launches of its study; see `Experiment` for the arguments."""

    def _forget(self) -> None:
        super()._forget()
        self._launch = ""  # the parent run of this driver, once it is open
        self._dead: frozenset[str] | None = None  # launches that were found dead; ``None`` before the first check
        self._launches: frozenset[str] | None = None  # all launches at the time when the trials were read
        self._unverified: set[str] = set()  # runs created since this launch was last confirmed to be open
        self.asked = _Asked()

    def take_over(self, dead: Collection[str]) -> None:
        """Allow this driver to write: every other open launch was found dead.

        Args:
            dead: the parent runs of these launches.
        """
        self._dead = frozenset(dead)

    @or_tracking_error
    def reconcile(self) -> int:
        """Close the runs that a killed driver left open; return their number. Their trials continue in the same runs.

        Raises:
            LaunchLostError: another launch has begun since `take_over`.
        """
        stale = [run for kind in (TRIAL, LAUNCH) for run in self._search(kind, "RUNNING")]
        stale = [run for run in stale if run.info.run_id != self._launch]
        for run in stale:
            self.interrupt(run.info.run_id)
        return len(stale)

    @or_tracking_error
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
        """Check that no launch has begun since the trials were read, because its results would be missing.

        If two start at once, the later one stops.

        Raises:
            LaunchLostError: one has begun, whether it has ended or not.
        """

        def order(run: Run) -> tuple[int, str]:
            return run.info.start_time, run.info.run_id

        new = [run for run in self._search(LAUNCH) if self._launches is not None and order(run) < order(own)]
        if not {run.info.run_id for run in new}.difference(self._launches or ()):
            return
        self.interrupt(own.info.run_id)
        raise LaunchLostError(
            f"another launch of study {self.study!r} has begun while this one started (it was suspended, or Ray took "
            "long); the same command continues the study"
        )

    def check_owner(self) -> None:
        """Ask the backend whether this driver still owns the study: taking over a study closes earlier launches.

        Raises:
            LaunchLostError: another launch has closed this one, or has begun before this one was open.
        """
        if not self._is_lost():
            self._unverified.clear()
            return
        for run_id in self._unverified:
            with contextlib.suppress(Exception):  # the backend may be unavailable
                self._disown(run_id)
        raise self._lost()

    def _disown(self, run_id: str) -> None:
        """Remove a run that was created after the other launch had read the runs, and that it does not know.

        It has closed or taken over the runs that it knows.
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
            f"another launch of study {self.study!r} {who}has taken it over, since this one sent no heartbeat for "
            "a while (it was suspended, or cut off from MLflow)"
        )

    @or_tracking_error
    def open_launches(self) -> list[OpenLaunch]:
        """Return the launches that have not been closed."""
        runs = self._search(LAUNCH, "RUNNING")
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
        """Download the study file of a launch into ``folder``; return its path, or ``None`` if it is absent."""
        try:
            return Path(self.client.download_artifacts(launch, STUDY_FILE, folder))
        except (MlflowException, OSError):
            return None

    @or_tracking_error
    def first_version(self) -> str | None:
        """Return the version of gradsweep at the first launch; ``None`` if there is no launch."""
        launches = self._search(LAUNCH)
        first = min(launches, key=lambda run: run.info.start_time, default=None)
        return None if first is None else str(first.data.tags.get("gradsweep.version", "0"))

    @or_tracking_error
    def latest_launch(self) -> str | None:
        """Return the parent run of the last launch."""
        launches = self._search(LAUNCH)
        return max(launches, key=lambda run: run.info.start_time).info.run_id if launches else None

    @as_owner
    def end_launch(self, run_id: str, status: str) -> None:
        """Close a parent run with status ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.client.set_tag(run_id, "gradsweep.status", "interrupted" if status == "KILLED" else status.lower())
        self.client.set_terminated(run_id, status)

    @as_owner
    def log_report(self, run_id: str, files: Sequence[Path], note: str, metrics: Mapping[str, float]) -> None:
        """Attach the report to a parent run; ``note`` (Markdown) is what the UI shows as its description."""
        for file in files:
            self.client.log_artifact(run_id, str(file), "report")
        self.client.set_tag(run_id, "mlflow.note.content", note)
        self.client.set_experiment_tag(self.experiment_id, "mlflow.note.content", note)
        self.client.log_batch(run_id, metrics=[Metric(k, v, now(), 0) for k, v in metrics.items()])

    @as_owner
    def interrupt(self, run_id: str) -> None:
        """Close a run that was stopped."""
        self.client.set_tag(run_id, "gradsweep.status", "interrupted")
        self.client.set_terminated(run_id, "KILLED")

    def beat(self, launch: str) -> None:
        """Send a heartbeat of this driver; may be called from any thread.

        Raises:
            LaunchLostError: another launch has taken the study over.
        """
        if self._is_lost():
            raise self._lost()
        self.client.set_tag(launch, BEAT, str(now()))
