"""Launches of a study in MLflow: their parent runs, their signs of life, and which of them may write."""

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
BEAT = "gradsweep.alive"  # milliseconds since the epoch of a launch's last sign of life
L = TypeVar("L", bound="LaunchRuns")


def as_owner(method: Callable[Concatenate[L, P], R]) -> Callable[Concatenate[L, P], R]:
    """Look whether the study is still this launch's before anything is written.

    A driver that was suspended (a closed laptop, a paused virtual machine) cannot know by a clock how long that was.
    """

    @wraps(method)
    def written(store: L, /, *arguments: P.args, **named: P.kwargs) -> R:
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
class OpenLaunch:
    """A launch that has not ended, or whose driver was killed; ``alive`` changes while it lives."""

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
        self._dead: frozenset[str] | None = None  # launches that were found dead; ``None`` before anybody has looked
        self._launches: frozenset[str] | None = None  # all that there were when the trials were read
        self._unverified: set[str] = set()  # runs that were made since the backend last said that this launch is open
        self.asked = _Asked()

    def take_over(self, dead: Collection[str]) -> None:
        """Let this driver write: no launch is alive but those whose signs of life have been looked for in vain.

        Args:
            dead: their parent runs.
        """
        self._dead = frozenset(dead)

    @or_tracking_error
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

    @or_tracking_error
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

    @or_tracking_error
    def latest_launch(self) -> str | None:
        """The parent run of the last launch."""
        launches = self._search(LAUNCH)
        return max(launches, key=lambda run: run.info.start_time).info.run_id if launches else None

    @as_owner
    def end_launch(self, run_id: str, status: str) -> None:
        """Close a parent run; status ``FINISHED``, ``FAILED`` or ``KILLED``."""
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
        """Leave a sign of life of this driver; from any thread.

        Raises:
            LaunchLostError: another launch has taken the study over.
        """
        if self._is_lost():
            raise self._lost()
        self.client.set_tag(launch, BEAT, str(now()))
