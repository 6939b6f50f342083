"""A study as it goes when nothing disturbs it, and what MLflow should hold of it bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from hpo.compare import compare
from hpo.core.trial import EpochReport, PlannedTrial, TrialConfig, TrialResult
from hpo.launch.restore import open_plan
from hpo.launch.weights_export import weights_content
from hpo.problems import load_problem
from hpo.report import ReportData
from hpo.study.schedule import Next, Schedule
from hpo.tracking.run_format import epoch_metrics, result_metrics
from hpo.training.trial import run_trial
from tests.helpers.runs import Case

TIMES = {"seconds", "score/val", "score/test"}  # metrics that are no training; scores are in the verdict


Trained = tuple[list[EpochReport], TrialResult]


def trained_here(config: TrialConfig) -> Trained:
    """Train a trial in this process."""
    epochs: list[EpochReport] = []
    problem = load_problem(config.problem, config.arguments)
    return epochs, run_trial(config, problem, epochs.append, torch.device("cpu"))


class Undisturbed:
    """The study trained one trial after the other without Ray: each trial's epochs and result.

    Args:
        case: with the study.
        train: trains a trial; returns its epochs and its result.
    """

    def __init__(self, case: Case, train: Callable[[TrialConfig], Trained] = trained_here) -> None:
        self.plan = open_plan(case.folder / "study.yaml")
        spec = self.plan.study
        self.schedule = Schedule(self.plan)
        self.trials: dict[str, tuple[PlannedTrial, list[EpochReport], TrialResult]] = {}
        while not isinstance(planned := self.schedule.next(), Next):
            epochs, result = train(planned.config)
            assert result.status == "finished", result.error
            self.trials[planned.config.identity] = planned, epochs, result
            self.schedule.finished(planned.config.identity, result)
        self.comparison = compare(self.schedule.table(), self.plan.scoring, spec.margin)
        self.weights = weights_content(self.plan, self.comparison, None, {})
        for name in ("steps", "starts", "devices"):
            (case.folder / name).unlink(missing_ok=True)

    def report(self) -> ReportData:
        """Return the data of the report."""
        study, metrics = self.plan.study.name, self.plan.metrics
        return ReportData(study, self.comparison, metrics, {}, {}, {}, self.schedule.table().head(0))

    def points(self, identity: str) -> set[tuple[str, int, float]]:
        """Every metric that MLflow should hold of a trial: name, step, value."""
        _, epochs, result = self.trials[identity]
        metrics = [metric for epoch in epochs for metric in epoch_metrics(epoch, 0)]
        metrics += result_metrics(result, 0)
        return {(metric.key, metric.step, metric.value) for metric in metrics if metric.key not in TIMES}

    def last(self, identity: str) -> dict[str, float]:
        """The last value of every metric of a trial."""
        return {name: value for name, _, value in sorted(self.points(identity))}

    def assert_same(self, runs: list[Run], client: MlflowClient) -> None:
        """Every trial is there once, finished, and has each metric once, bit for bit."""
        identities = [run.data.tags["gradsweep.identity"] for run in runs]
        assert sorted(identities) == sorted(self.trials)
        assert {(run.info.status, run.data.tags["gradsweep.status"]) for run in runs} == {("FINISHED", "finished")}
        for run in runs:
            identity = run.data.tags["gradsweep.identity"]
            keys = sorted(set(run.data.metrics) - TIMES)
            points = [point for key in keys for point in client.get_metric_history(run.info.run_id, key)]
            found = [(point.key, point.step, point.value) for point in points]
            assert set(found) == self.points(identity), self.trials[identity][0].name
            assert len(found) == len(set(found))
