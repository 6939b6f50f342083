"""From a study file to its verdict: open, run, compare, report. What the command line calls."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from rich.console import Console

from hpo import backend
from hpo.compare import Comparison, best_trial, compare
from hpo.export import PACKAGES, weights_content, write_weights
from hpo.plan import Plan, sweep_parameters
from hpo.problems import load_problem
from hpo.progress import View
from hpo.report import ReportData, sentences, write_images, write_report
from hpo.schedule import Schedule
from hpo.study import Study, load_study
from hpo.sweep import Parameters, Sweep, journal
from hpo.tracking import Record, Tracking, Writer
from hpo.trial import TrialConfig, TrialResult


class OutputError(RuntimeError):
    """The output folder cannot be used."""


@dataclass(frozen=True)
class Place:
    """Where a study keeps what it makes."""

    output: Path
    uri: str

    @property
    def shown(self) -> str:
        """The backend for a person's eyes."""
        return backend.shown_uri(self.uri)

    def folder(self, study: str) -> Path:
        """Of one study: report, weights file, Optuna's journal."""
        return self.output / study


@dataclass(frozen=True)
class Finished:
    """What a command tells the user at its end."""

    comparison: Comparison
    report: Path
    weights: Path | None
    failed: Mapping[str, str]  # trial's name -> error
    complete: bool
    ran: int = 0  # trials of this launch
    faults: Sequence[str] = ()  # what went wrong beside the trials


def place(output: Path, uri: str | None) -> Place:
    """The output folder, and the tracking backend, by default SQLite in that folder."""
    return Place(output.resolve(), uri or backend.embedded_uri(output))


def open_plan(path: Path, prepare: bool = True) -> Plan:
    """Read a study file, find its problem, make its data ready.

    Raises:
        StudyError, ProblemError, FileNotFoundError: what is wrong with them.
    """
    study = load_study(path)
    problem = load_problem(study.problem.name, study.problem.arguments)
    if prepare:
        problem.prepare()
    return Plan(study, problem)


def run_study(path: Path, where: Place, address: str | None, console: Console) -> Finished:
    """Run what is left of a study, then compare, report and export.

    Raises:
        ClusterError, TrackingError, OutputError: and what `open_plan` raises; before any trial runs.
    """
    with console.status("preparing data") if console.is_terminal else ExitStack():
        plan = open_plan(path)
    folder = where.folder(plan.study.name)
    backend.check_answers(where.uri)
    with _locked(folder), ExitStack() as parent:
        store = Tracking(where.uri, plan.study.name, where.output)
        store.reconcile()
        schedule = _schedule(plan, store.records(), folder / "optuna.journal")
        before, launch, faults = set(schedule.results), None, list[str]()
        if not _complete(schedule):
            from hpo import cluster  # ray takes seconds to import; a finished study does not need it

            with cluster.connected(address, plan.study.resources) as nodes:
                launch = parent.enter_context(_launch(store, path))
                console.print(f"{plan.study.name}: {nodes}; MLflow at {where.shown}", highlight=False, soft_wrap=True)
                faults = _run(schedule, store, launch, console)
        finished = conclude(plan, schedule, store, where, path, folder, launch)
    ran = len(set(schedule.results) - before)
    return replace(finished, ran=ran, faults=[*faults, *finished.faults])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The study's folder, made if need be, for one launch at a time."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise OutputError(f"--output: another launch of study {folder.name!r} is running in {folder}") from None
    except OSError as error:
        raise OutputError(f"--output: {folder} cannot be written: {error.strerror}") from None
    with lock:
        yield


@contextmanager
def _launch(store: Tracking, path: Path) -> Iterator[str]:
    """The parent run of a launch, closed however the launch ends; `conclude` closes one that came to its end."""
    launch = store.start_launch(path.read_text(encoding="utf-8"))
    try:
        yield launch
    except BaseException as error:
        with suppress(Exception):  # the backend may be what is at fault
            store.end_launch(launch, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _run(schedule: Schedule, store: Tracking, launch: str, console: Console) -> list[str]:
    """Run the schedule. What went wrong beside the trials."""
    from hpo import cluster

    writer, view = Writer(store, launch), View(schedule, console)
    try:
        with view.shown():
            faults = list(dict.fromkeys(cluster.run(schedule, schedule.plan.study.resources, [writer, view])))
    finally:
        lost = writer.close()
    if lost:
        some = ", ".join(lost[:5]) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
        faults.append(f"MLflow did not take {len(lost)} trials, which will run again ({writer.last_fault}): {some}")
    return faults


def conclude(
    plan: Plan,
    schedule: Schedule,
    store: Tracking,
    where: Place,
    path: Path,
    folder: Path,
    launch: str | None,
    figures: str | None = None,
) -> Finished:
    """Compare what there is, write report and weights, and attach them to the study's parent run.

    Raises:
        OutputError: ``folder`` cannot be written.
        ImageError: ``figures`` names a format, and there is nothing to draw it with.
    """
    trials = schedule.table()
    comparison = compare(trials, plan.directions, plan.study.margin, plan.random_points)
    weights = folder / "weights.json" if comparison.recommended else None
    try:
        data = _report_data(plan, store, comparison, trials, where, path)
        files = write_report(data, folder / "report")
        if weights:
            write_weights(weights, weights_content(plan, comparison, None, runs_of(schedule, store)))
    except OSError as error:
        raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    complete, failed = _complete(schedule), _failed(schedule)
    finished = Finished(comparison, files["html"], weights, failed, complete)
    try:
        if parent := launch or store.latest_launch():
            attached = [*files.values(), *([weights] if weights else [])]
            store.log_report(parent, attached, "\n\n".join(sentences(comparison)), _headline(comparison))
            store.log_scores(_scores(comparison))
        if launch:
            store.end_launch(launch, "KILLED" if not complete else "FAILED" if failed else "FINISHED")
    except Exception as error:  # SQLAlchemy, requests and MLflow each have their own; the files are there
        fault = f"MLflow did not take the report ({store.fault(error)}); later: gradsweep report"
        finished = replace(finished, faults=[fault])
    if figures:  # last, since it may want for a Chrome
        try:
            write_images(data, folder / "report" / "figures", figures)
        except OSError as error:
            raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    return finished


def runs_of(schedule: Schedule, store: Tracking) -> dict[str, str]:
    """For each trial that was ever begun its MLflow run."""
    return {identity: run for p in schedule.planned() if (run := store.run_of(identity := p.config.identity))}


def read_study(path: Path, where: Place) -> tuple[Plan, Schedule, Tracking]:
    """A study as MLflow holds it, for commands that run nothing."""
    plan = open_plan(path, prepare=False)
    store = Tracking(where.uri, plan.study.name, where.output, create=False)
    return plan, _schedule(plan, store.records(), None), store


def _schedule(plan: Plan, records: list[Record], optuna_journal: Path | None) -> Schedule:
    """The schedule with what MLflow holds; failed trials run again, if anything is to run."""
    running = optuna_journal is not None
    results: dict[str, TrialResult] = {
        record.config.identity: record.result for record in records if record.result.status != "failed" or not running
    }
    swept = [record.config for record in records if record.config.identity in results]
    found = {recipe: [c for c in swept if plan.sweep_recipe(c) == recipe] for recipe in plan.study.gradnorm.recipes}
    sweeps: dict[str, Sweep] = {}
    if optuna_journal is not None:
        storage = journal(optuna_journal)
        sweeps = {recipe: _sweep(plan, recipe, configs, storage) for recipe, configs in found.items()}
    schedule = Schedule(plan, results, sweeps)
    for recipe, configs in found.items():
        for config in configs:
            schedule.adopt(plan.sweep(recipe, sweep_parameters(config)))
    return schedule


def _sweep(plan: Plan, recipe: str, configs: list[TrialConfig], storage: Any) -> Sweep:
    spec = plan.study.gradnorm

    def identify(parameters: Parameters) -> str:
        return plan.sweep(recipe, parameters).config.identity

    name = f"{plan.study.name}/{recipe}/{identify({'alpha': 0.0, 'learning_rate': 0.025})}/{spec.alpha}"
    return Sweep(
        spec.space,
        spec.trials,
        seed=plan.study.seed,
        identify=identify,
        storage=storage,
        name=f"{name}/{spec.learning_rate}",
        finished={config.identity: sweep_parameters(config) for config in configs},
    )


def _complete(schedule: Schedule) -> bool:
    """Whether every trial of the study has a result."""
    size = schedule.plan.size()
    counts = schedule.progress()
    swept = counts["sweep"]["done"] + counts["sweep"]["failed"] >= size["sweep"][1] or not schedule.asking
    return swept and all(count["done"] + count["failed"] >= count["total"] for count in counts.values())


def _failed(schedule: Schedule) -> dict[str, str]:
    failed = {}
    for planned in schedule.planned():
        result = schedule.results.get(planned.config.identity)
        if result is not None and result.status == "failed":
            failed[planned.name] = result.error
    return failed


def _report_data(
    plan: Plan, store: Tracking, comparison: Comparison, trials: pd.DataFrame, where: Place, path: Path
) -> ReportData:
    search = comparison.search
    trajectories: dict[str, pd.DataFrame] = {}
    for recipe in plan.study.gradnorm.recipes:
        best = best_trial(search[(search["kind"] == "gradnorm") & (search["recipe"] == recipe)])
        path_of = None if best is None else store.trajectory(best["identity"])
        if path_of is not None:
            trajectories[recipe] = path_of
    return ReportData(
        study=plan.study.name,
        comparison=comparison,
        metrics=plan.metrics,
        trajectories=trajectories,
        provenance=_provenance(plan, where, path),
        run_links=store.links(),
        unfinished=trials[trials["status"] != "finished"],
    )


def _provenance(plan: Plan, where: Place, path: Path) -> dict[str, str]:
    study: Study = plan.study
    text = path.read_text(encoding="utf-8")
    return {
        "study file": text,
        "study file sha256": sha256(text.encode()).hexdigest()[:16],
        "problem": ", ".join([study.problem.name, *(f"{k}={v}" for k, v in study.problem.arguments.items())]),
        "data hash": plan.data_hash,
        "seeds": f"search {study.seed}, confirm {study.confirm_seeds.start} to {study.confirm_seeds.stop - 1}",
        "epochs": str(plan.epochs),
        "tracking": where.shown,
        "machine": backend.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def _headline(comparison: Comparison) -> dict[str, float]:
    found = comparison.verdict.regret
    numbers = {"regret": found.mean, "regret_low": found.low, "regret_high": found.high}
    return {name: float(value) for name, value in numbers.items() if pd.notna(value)}


def _scores(comparison: Comparison) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    columns = [(comparison.search, "score", "score/val"), (comparison.confirm, "score_val", "score/val")]
    for table, column, name in [*columns, (comparison.confirm, "score_test", "score/test")]:
        for identity, value in zip(table["identity"], table[column], strict=True):
            if pd.notna(value):
                scores.setdefault(identity, {})[name] = float(value)
    return scores
