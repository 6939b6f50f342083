"""Helpers of the tests of tracking and writer: made-up trials, a study in a database, and an MLflow server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run

from hpo.core.trial import EpochReport, PlannedTrial, TrialConfig, TrialResult
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.outbox import Outbox
from hpo.tracking.run_format import Record
from hpo.tracking.server import healthy, serve
from tests.helpers.runs import place_database

TASKS = ["depth", "normals"]


def planned(seed: int = 0, **arguments: object) -> PlannedTrial:
    config = TrialConfig("toy", arguments, "hash", "gradnorm", {"recipe": "robust", "alpha": 0.5}, seed, 2)
    return PlannedTrial(config, "sweep", "gradnorm/robust/alpha=0.5")


def report(epoch: int, loss: float = 1.0) -> EpochReport:
    values = dict.fromkeys(TASKS, loss / epoch)
    return EpochReport(epoch, 2, 8 * epoch, 0.1, values, values, values, values, values)


def result(status: str = "finished", validation: float = 0.25, **more: object) -> TrialResult:
    return TrialResult(
        status,
        steps=16,
        seconds=0.5,
        validation=dict.fromkeys(TASKS, validation),
        averages={"tail": dict.fromkeys(TASKS, 1.0)},
        initial_losses=dict.fromkeys(TASKS, 3.0),
        trajectory={"step": np.arange(3), **{name: np.ones((3, 2), "float32") for name in "wGrL"}},
        **more,
    )


def write(
    store: StudyExperiment, journal: Outbox, trial: PlannedTrial, end: TrialResult, epochs: int = 2, loss: float = 1.0
) -> None:
    """One trial from its start to its end."""
    writer = MlflowWriter(store, "parent", journal)
    writer.trial_started(trial)
    for epoch in range(1, epochs + 1):
        writer.trial_reported(trial, report(epoch, loss))
    writer.trial_ended(trial, end)
    assert writer.close() == []
    assert writer.faults == 0, writer.last_fault
    assert len(journal) == 0


def again(store: StudyExperiment, folder: Path) -> tuple[StudyExperiment, list[Record]]:
    """The same study as the next launch opens it, and the trials it need not run."""
    other = StudyExperiment(store.uri, store.study, folder)
    other.reconcile()
    return other, other.records()


def trial_runs(store: StudyExperiment) -> list[Run]:
    return list(store.client.search_runs([store.experiment_id], "tags.`gradsweep.kind` = 'trial'"))


def only_run(store: StudyExperiment) -> Run:
    (run,) = store.client.search_runs([store.experiment_id])
    return run


def history(store: StudyExperiment, key: str) -> list[tuple[int, float]]:
    points = store.client.get_metric_history(only_run(store).info.run_id, key)
    return [(point.step, point.value) for point in points]


class Server:
    """An MLflow server that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.uri = place_database(folder)  # of the database behind it
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log, pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)  # a server keeps its artifacts there by default
            self.process = serve(self.uri, "127.0.0.1", self.port, log)
        assert healthy(self.url, self.process), (self.folder / "log").read_text()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)

    def kill(self) -> None:
        """All of its processes, in the middle of whatever they do."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)

    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None
