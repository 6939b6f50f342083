"""MLflow: one experiment per study, one parent run per launch, one child run per trial.

Only the driver writes, from one thread (`hpo.tracking.delivery`), in batches. A run is found again by the identity
of its trial. Timestamps of metrics are computed from the run's start and the step, so that writing a trial twice
stores each point once.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from hpo.core.trial import EpochReport, PlannedTrial, TrialStatus
from hpo.core.uris import public
from hpo.tracking.backend import UI_VIEW, is_server, sqlite_path
from hpo.tracking.experiment_base import now, or_tracking_error
from hpo.tracking.launch_runs import LaunchRuns, as_owner
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
    start_tags,
)

ENDED_STATUSES = tuple(status for status in TrialStatus if status.has_ended)
FINAL_STATUSES = tuple(status for status in TrialStatus if status.is_final)
AT_ONCE = 4  # requests; each takes two of the 15 connections that a server has to its database by default
ROUNDING = 1e-9  # relative difference below which two scores are the same


@dataclass
class OpenRun:
    """The run of a trial that is being written.

    Attributes:
        run_id: MLflow's.
        started: milliseconds; timestamps of its metrics count from it.
        earlier: metrics that an earlier launch wrote.
        ended: time at which the run ended before, in milliseconds; 0 if it never ended.
        artifacts: URI of its artifacts.
        has_params: whether its parameters have been written.
    """

    run_id: str
    started: int
    earlier: dict[str, float]
    artifacts: str
    has_params: bool = False
    ended: int = 0


class StudyExperiment(LaunchRuns):
    """The experiment of one study with its trials; its arguments are those of `hpo.tracking.experiment_base`."""

    def _forget(self) -> None:
        super()._forget()
        self._runs: dict[str, str] = {}  # identity -> run id
        self._knows_runs = False  # whether `records` has filled them
        self._unsure: set[str] = set()  # identities whose request to create a run failed
        self._scores: dict[str, dict[str, float]] = {}  # identity -> scores that its run holds

    @or_tracking_error
    def records(self) -> list[Record]:
        """Return every trial of the experiment that has ended."""
        self._launches = frozenset(run.info.run_id for run in self._search(LAUNCH))
        records, ended = [], set()
        for run in self._each(TRIAL):
            identity = run.data.tags["gradsweep.identity"]
            if identity in ended:  # two drivers unaware of each other created two runs
                continue
            self._runs[identity] = run.info.run_id
            self._scores[identity] = {key: v for key, v in run.data.metrics.items() if key.startswith("score/")}
            if run.info.status in ("FINISHED", "FAILED") and run.data.tags["gradsweep.status"] in ENDED_STATUSES:
                ended.add(identity)
                records.append(read_record(run))
        self._knows_runs = True
        return records

    @as_owner
    def log_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Add scores to the runs of trials, by identity, so that the UI can sort by them.

        MLflow takes a request for each run. They are made for the runs whose scores are not those that `records` has
        read or `write` has written, and none to read them again: reading 1,000 runs takes seconds.
        """
        new = {identity: self._unlike_held(identity, wanted) for identity, wanted in scores.items()}
        changed = [identity for identity, values in new.items() if values and identity in self._runs]
        with ThreadPoolExecutor(1 if sqlite_path(self.uri) else AT_ONCE) as pool:
            for _ in pool.map(lambda identity: self._log_scores(identity, new[identity]), changed):
                pass  # an exception of one cancels those that have not begun

    def _unlike_held(self, identity: str, wanted: Mapping[str, float]) -> dict[str, float]:
        """Return the scores that a run does not hold, to within rounding: they are added up in different orders."""
        held = self._scores.get(identity, {})
        return {k: v for k, v in wanted.items() if k not in held or not math.isclose(held[k], v, rel_tol=ROUNDING)}

    def _log_scores(self, identity: str, scores: Mapping[str, float]) -> None:
        time = now()
        self.client.log_batch(self._runs[identity], metrics=[Metric(k, v, time, 0) for k, v in scores.items()])
        self._hold(identity, scores)

    def _hold(self, identity: str, scores: Mapping[str, float]) -> None:
        self._scores[identity] = {**self._scores.get(identity, {}), **scores}

    def has_result(self, identity: str) -> bool:
        """Return whether MLflow holds a result of a trial, so that it does not have to run again."""
        for run in self.client.search_runs([self.experiment_id], f"tags.`gradsweep.identity` = '{identity}'"):
            if run.info.status == "FINISHED" and run.data.tags["gradsweep.status"] in FINAL_STATUSES:
                return True
        return False

    def trajectory(self, identity: str) -> pd.DataFrame | None:
        """Return the per-step trajectory of a trial: columns ``step`` and ``w/<task>``, ``G/``, ``r/``, ``L/``."""
        run_id = self._runs.get(identity)
        if run_id is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            try:
                return pd.read_parquet(self.client.download_artifacts(run_id, TRAJECTORY, folder))
            except (MlflowException, OSError, ValueError):  # ValueError: a truncated file
                return None

    def links(self) -> dict[str, str]:
        """Return the address of each trial's run: its page on a tracking server, otherwise its id."""
        page = f"{public(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}/runs/"
        return {
            identity: f"{page}{run_id}?{UI_VIEW}" if is_server(self.uri) else run_id
            for identity, run_id in self._runs.items()
        }

    def run_of(self, identity: str) -> str | None:
        """Return the run of a trial that has been started."""
        return self._runs.get(identity)

    @as_owner
    def open(self, planned: PlannedTrial, launch: str, started: int) -> OpenRun:
        """Find or create the run of a trial and set it to RUNNING."""
        identity, tags = planned.config.identity, start_tags(planned, launch)
        known = self._runs.get(identity) or self._unknown_run(identity)
        run = self.client.get_run(known) if known else None
        if known is None or run is None or run.info.lifecycle_stage == "deleted":
            self._unsure.add(identity)
            made = self._create_run(start_time=started, tags=tags, run_name=planned.name)
            self._unsure.discard(identity)
            self._runs[identity] = made.info.run_id
            self._scores.pop(identity, None)
            self._unverified.add(made.info.run_id)
            self.check_owner()
            return OpenRun(made.info.run_id, started, {}, made.info.artifact_uri)
        self._runs[identity] = known
        self.client.update_run(known, status="RUNNING", name=planned.name)
        self.client.log_batch(known, tags=[RunTag(k, v) for k, v in tags.items()])
        info = run.info
        return OpenRun(known, info.start_time, run.data.metrics, info.artifact_uri, ended=info.end_time or 0)

    @as_owner
    def write_epochs(self, run: OpenRun, planned: PlannedTrial, epochs: Sequence[EpochReport]) -> None:
        """Add epochs to the run of a trial."""
        self._log(run, planned, [metric for report in epochs for metric in epoch_metrics(report, run.started)], [])

    @as_owner
    def write(
        self,
        entry: EndedTrial,
        run: OpenRun | None = None,
        written: int = 0,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Write a complete trial in few calls, since each is a transaction or a request. Safe to repeat.

        Args:
            entry: the trial.
            run: its run, if it is open.
            written: number of epochs that the run holds.
            scores: of the trial, by the name of the metric, as far as they are known yet.
        """
        run = run or self.open(entry.planned, entry.launch, entry.started)
        result = entry.result
        metrics = [metric for report in entry.epochs[written:] for metric in epoch_metrics(report, run.started)]
        ended = max(entry.ended, run.ended + 1)  # if the clock was set back, older values must not win
        final = [*result_metrics(result, ended), *(Metric(k, v, ended, 0) for k, v in (scores or {}).items())]
        metrics += [m for m in final if run.earlier.get(m.key) != m.value]
        self._log(run, entry.planned, metrics, end_tags(result))
        with tempfile.TemporaryDirectory() as folder:  # for an entry that the outbox could not store
            if trajectory := entry.trajectory or write_trajectory(result, Path(folder)):
                get_artifact_repository(run.artifacts, self.uri).log_artifact(str(trajectory))
        status = "FAILED" if result.status is TrialStatus.FAILED else "FINISHED"
        self.client.set_terminated(run.run_id, status, ended)  # last, so that a run that has ended is complete
        self._hold(entry.planned.config.identity, scores or {})

    def _log(self, run: OpenRun, planned: PlannedTrial, metrics: list[Metric], tags: list[RunTag]) -> None:
        params = [] if run.has_params else run_params(planned.config)
        if metrics or params or tags:
            self.client.log_batch(run.run_id, metrics, params, tags)
        run.has_params = True

    def _unknown_run(self, identity: str) -> str | None:
        """Find a run that `records` has not seen, or that was created by a request whose response was lost."""
        if self._knows_runs and identity not in self._unsure:
            return None
        wanted = f"tags.`gradsweep.identity` = '{identity}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1)
        return found[0].info.run_id if found else None
