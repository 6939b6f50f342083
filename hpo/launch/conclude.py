"""The end of a launch: comparison, report, weights file, and their attachment to MLflow's runs."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from hpo.compare import Comparison, best_trial, compare
from hpo.core.errors import LaunchLostError, OutputError
from hpo.core.trial import TrialStatus
from hpo.launch.run_scores import scores_of
from hpo.launch.weights_export import PACKAGES, weights_content, write_weights
from hpo.launch.workspace import Workspace
from hpo.report import ReportData, answers, sentences, write_images, write_report
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.study.spec import Study
from hpo.tracking.backend import machine
from hpo.tracking.experiment import StudyExperiment


@dataclass(frozen=True)
class Outcome:
    """A study with its results so far.

    Attributes:
        plan: the study.
        store: its experiment in MLflow.
        where: its output folder.
        data: the comparison and all other content of a report.
        runs: the MLflow run of each trial, by identity.
        failed: the error of each failed trial, by the trial's name.
        diverged: the value that was not finite, for each diverged trial.
        complete: whether every trial has a result.
    """

    plan: Plan
    store: StudyExperiment
    where: Workspace
    data: ReportData
    runs: Mapping[str, str]
    failed: Mapping[str, str]
    diverged: Mapping[str, str]
    complete: bool

    @property
    def comparison(self) -> Comparison:
        """The comparison."""
        return self.data.comparison

    def weights_content(self, arm: str | None = None) -> dict[str, Any]:
        """Return the content of an arm's weights file; the default is the recommended arm.

        Raises:
            ExportError: the arm does not exist, or a weights file cannot hold it.
        """
        return weights_content(self.plan, self.comparison, arm, self.runs)


@dataclass(frozen=True)
class Finished:
    """The result of a command, shown to the user at its end."""

    outcome: Outcome
    report: Path
    weights: Path | None
    ran: int = 0  # trials of this launch
    faults: Sequence[str] = ()  # problems other than failed trials

    @property
    def comparison(self) -> Comparison:
        """See `Outcome`."""
        return self.outcome.comparison

    @property
    def failed(self) -> Mapping[str, str]:
        """See `Outcome`."""
        return self.outcome.failed

    @property
    def diverged(self) -> Mapping[str, str]:
        """See `Outcome`."""
        return self.outcome.diverged

    @property
    def complete(self) -> bool:
        """See `Outcome`."""
        return self.outcome.complete


def assess(plan: Plan, schedule: Schedule, store: StudyExperiment, where: Workspace) -> Outcome:
    """Compare the finished trials."""
    trials = schedule.table()
    comparison = compare(
        trials,
        plan.scoring,
        plan.study.margin,
        plan.random_points,
        baseline=plan.baseline.arm.key if plan.baseline else "",
        searched=plan.study.static is not None,
        swept=plan.study.gradnorm is not None,
        sets={label: found.values for label, found in plan.sets.items()},
    )
    return Outcome(
        plan,
        store,
        where,
        _report_data(plan, store, comparison, trials, where),
        _runs_of(schedule, store),
        _ended(schedule, TrialStatus.FAILED),
        _ended(schedule, TrialStatus.DIVERGED),
        schedule.is_complete,
    )


def conclude(outcome: Outcome, folder: Path, launch: str | None, figures: str | None = None) -> Finished:
    """Write report and weights, and attach them to the study's parent run.

    Args:
        outcome: of the study.
        folder: of report and weights file.
        launch: the parent run, which is ended here; ``None`` attaches them to the latest launch.
        figures: an image format, to write the figures also as image files.

    Raises:
        OutputError: ``folder`` cannot be written.
        ImageError: ``figures`` names a format, and no renderer is installed.
    """
    comparison, store = outcome.comparison, outcome.store
    weights = folder / "weights.json" if comparison.recommended else None
    try:
        files = write_report(outcome.data, folder / "report")
        if weights:
            write_weights(weights, outcome.weights_content())
    except OSError as error:
        raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    finished = Finished(outcome, files["html"], weights)
    try:
        if parent := launch or store.latest_launch():
            attached = [*files.values(), *([weights] if weights else [])]
            note = [f"**{answer.question}** {answer.text}" for answer in answers(comparison)]
            note += ["The statistics behind it:", *sentences(comparison)]
            store.log_report(parent, attached, "\n\n".join(note), _headline(comparison))
            store.log_scores(scores_of(comparison))
        if launch:
            store.end_launch(launch, _launch_status(outcome))
    except LaunchLostError:
        raise
    except Exception as error:  # SQLAlchemy, requests and MLflow each raise their own; the files are written
        fault = f"MLflow did not accept the report ({store.fault(error)}); later: gradsweep report"
        finished = replace(finished, faults=[fault])
    if figures:  # last, because it may fail for lack of a Chrome
        try:
            write_images(outcome.data, folder / "report" / "figures", figures)
        except OSError as error:
            raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    return finished


def _launch_status(outcome: Outcome) -> str:
    """Return how a launch ended, as an MLflow status."""
    if not outcome.complete:
        return "KILLED"
    return "FAILED" if outcome.failed else "FINISHED"


def _runs_of(schedule: Schedule, store: StudyExperiment) -> dict[str, str]:
    """Return the MLflow run of each trial that has been started."""
    return {identity: run for p in schedule.planned() if (run := store.run_of(identity := p.config.identity))}


def _ended(schedule: Schedule, status: TrialStatus) -> dict[str, str]:
    """Return the trials that ended with a status, and their errors."""
    found = {}
    for planned in schedule.planned():
        result = schedule.results.get(planned.config.identity)
        if result is not None and result.status is status:
            found[planned.name] = result.error
    return found


def _report_data(
    plan: Plan, store: StudyExperiment, comparison: Comparison, trials: pd.DataFrame, where: Workspace
) -> ReportData:
    search = comparison.search
    trajectories: dict[str, pd.DataFrame] = {}
    for recipe in plan.study.recipes:
        best = best_trial(search[(search["kind"] == "gradnorm") & (search["recipe"] == recipe)])
        path_of = None if best is None else store.trajectory(best["identity"])
        if path_of is not None:
            trajectories[recipe] = path_of
    return ReportData(
        study=plan.study.name,
        comparison=comparison,
        metrics=plan.metrics,
        trajectories=trajectories,
        provenance=_provenance(plan, where) | {"trained at once": _at_once(trials)},
        run_links=store.links(),
        unfinished=trials[~trials["status"].isin([status for status in TrialStatus if status.has_score])],
    )


def _at_once(trials: pd.DataFrame) -> str:
    """Describe how many trials of a table were trained at once."""
    counts = trials["together"]
    if counts.max() <= 1 or counts.empty:
        return "1 trial"
    few = "" if counts.min() == counts.max() else f"{counts.min()} to "
    return f"{few}{counts.max()} trials; their seconds are equal shares"


def _provenance(plan: Plan, where: Workspace) -> dict[str, str]:
    study: Study = plan.study
    return {
        "study file": plan.text,
        "study file sha256": sha256(plan.text.encode()).hexdigest()[:16],
        "problem": ", ".join([study.problem.name, *(f"{k}={v}" for k, v in study.problem.arguments.items())]),
        "data hash": plan.data_hash,
        "seeds": f"search {study.seed}, confirm {study.confirm_seeds.start} to {study.confirm_seeds.stop - 1}",
        "epochs": f"{plan.epochs}, of which the {study.select} of each trial counts",
        "tracking": where.shown,
        "machine": machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _headline(comparison: Comparison) -> dict[str, float]:
    found = comparison.verdict.regret
    numbers = {"regret": found.mean, "regret_low": found.low, "regret_high": found.high}
    return {name: float(value) for name, value in numbers.items() if pd.notna(value)}
