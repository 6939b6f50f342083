"""From a study file to its verdict: open, run, compare, report. What the command line calls."""

from __future__ import annotations

import math
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console

from hpo.check.user_tracebacks import place_of
from hpo.compare import Comparison, best_trial, compare
from hpo.core.environment import close_local_ray
from hpo.core.files import OutputError
from hpo.core.storage import Storage, absolute, below
from hpo.core.text import one_line
from hpo.core.trial import STOPPED, TrialConfig, TrialResult
from hpo.core.uris import shown
from hpo.core.user_calls import Boundary
from hpo.launch.output_lock import locked
from hpo.launch.progress import View, stage
from hpo.launch.weights_export import PACKAGES, weights_content, write_weights
from hpo.problems import load_problem, target_of
from hpo.problems.base import ProblemError
from hpo.problems.data_cache import prepare_once
from hpo.report import ReportData, best, sentences, write_images, write_report
from hpo.study.alpha_sweep import Parameters, Sweep, optuna_storage
from hpo.study.plan import Plan, sweep_parameters
from hpo.study.schedule import Schedule
from hpo.study.spec import Study, StudyError, read_study_file
from hpo.study.spec_diff import changes, told, told_data
from hpo.tracking import backend
from hpo.tracking.backend import TrackingError
from hpo.tracking.delivery import Heartbeat, Writer, deliver
from hpo.tracking.experiment import LaunchLostError, Record, Tracking
from hpo.tracking.launch_lock import check_alone
from hpo.tracking.outbox import Entry, Journal
from hpo.training.checkpoints import mark_shared, remove
from hpo.training.methods import STACKABLE

if TYPE_CHECKING:
    from hpo.execution import ray_tune as cluster  # ray takes seconds to import


@dataclass(frozen=True)
class Place:
    """Where a study keeps what it makes.

    Attributes:
        output: folder of reports, weights files and journals.
        uri: MLflow's backend.
        storage: where checkpoints go; ``None`` keeps them in ``output``.
    """

    output: Path
    uri: str
    storage: str | None = None

    @property
    def shown(self) -> str:
        """The backend for a person's eyes."""
        return shown(self.uri)

    def folder(self, study: str) -> Path:
        """Of one study: report, weights file, Optuna's journal, what MLflow does not hold yet."""
        return self.output / study

    def journal(self, study: str) -> Journal:
        """Trials of a study that MLflow does not hold yet."""
        return Journal(self.folder(study) / "undelivered")

    def checkpoints(self, study: str) -> Storage:
        """Where a study's checkpoints are.

        Raises:
            StorageError: it cannot be used.
        """
        return Storage(below(self.storage, study) if self.storage else str(self.folder(study) / "checkpoints"))


@dataclass(frozen=True)
class Finished:
    """What a command tells the user at its end."""

    comparison: Comparison
    report: Path
    weights: Path | None
    failed: Mapping[str, str]  # trial's name -> error
    diverged: Mapping[str, str]  # trial's name -> what was not finite
    complete: bool
    ran: int = 0  # trials of this launch
    faults: Sequence[str] = ()  # what went wrong beside the trials


def place(output: Path, uri: str | None, storage: str | None = None) -> Place:
    """The output folder, the tracking backend (default: SQLite in that folder), and where checkpoints go."""
    return Place(output.resolve(), uri or backend.embedded_uri(output), storage and absolute(storage))


def open_plan(path: Path, prepare: bool = True) -> Plan:
    """Read a study file, find its problem, make its data ready.

    Raises:
        StudyError, ProblemError, FileNotFoundError: what is wrong with them.
    """
    study, text = read_study_file(path)
    with _user_code(f"problem: {study.problem.name!r} cannot be used"):
        problem = load_problem(study.problem.name, study.problem.arguments)
        if prepare:
            prepare_once(problem)
        return Plan(study, problem, text)


@contextmanager
def _user_code(what: str) -> Iterator[None]:
    """Tell what a problem's own code raises in one line, with its place.

    Raises:
        ProblemError: in place of all but Ctrl-C and what is bad input already.
    """
    boundary = Boundary()
    try:
        yield
    except (ProblemError, StudyError):
        boundary.end_fork()
        raise
    except BaseException as error:
        boundary.pass_on(error)
        if type(error) is FileNotFoundError:  # of data, which the command line tells as it is
            raise
        where = place_of(error)
        raise ProblemError(f"{what}: {one_line(error, 1000)}{f' (at {where})' if where else ''}") from error
    boundary.end_fork()


def run_study(path: Path, where: Place, address: str | None, console: Console, wait: float = 0.0) -> Finished:
    """Run what is left of a study, then compare, report and export.

    Args:
        path: the study file.
        where: to keep what it makes.
        address: of a Ray cluster; ``None`` starts one on this machine.
        console: for the user.
        wait: so many minutes for a node that can hold a trial.

    Raises:
        ClusterError, TrackingError, OutputError, StorageError: and what `open_plan` raises; before any trial runs.
    """
    with stage(console, "preparing data"):
        plan = open_plan(path)
    study = plan.study.name
    folder, journal, checkpoints = where.folder(study), where.journal(study), where.checkpoints(study)
    backend.check_answers(where.uri)
    with locked(folder), ExitStack() as parent:
        store = _open_store(study, where, console)
        store.take_over(check_alone(store, console))
        _take_up(store, where, journal, console)
        faults = deliver(journal, store, partial(remove, checkpoints))
        records = _records(store, journal)
        schedule = _schedule(plan, records, folder / "optuna.journal")
        before, launch = set(schedule.results), None
        if not _complete(schedule):
            if address is None:
                close_local_ray()
            from hpo.execution import (
                ray_tune as cluster,  # ray takes seconds to import; a finished study does not need it
            )

            _tell_changes(plan, schedule, store, console)
            _tell_changed_data(plan, records, console)
            with cluster.connected(address, plan.study.resources, wait, partial(stage, console)) as nodes:
                job = cluster.Job(
                    plan.study.resources,
                    checkpoints.address,
                    plan.study.checkpoint_seconds,
                    target_of(plan.study.problem.name),
                )
                sizing = _sizing(schedule, job)  # goes on while we open the launch
                launch = parent.enter_context(_launch(store, plan.text))
                heart = parent.enter_context(Heartbeat(store, launch))
                check_alone(store, console, launch)  # again: Ray takes its time, and --wait more
                console.print(f"{study}: {nodes}; MLflow at {where.shown}", highlight=False, soft_wrap=True)
                mark_shared(checkpoints)
                job = replace(job, together=_together(plan.study, sizing, console))
                writer = Writer(store, launch, journal, partial(remove, checkpoints))
                faults += _run(schedule, job, writer, heart, console)
        with stage(console, f"{study}: comparing, writing the report"):
            finished = conclude(plan, schedule, store, where, folder, launch)
        if finished.complete:
            remove(checkpoints, "")  # what a worker that had lost its driver may have left, too
    ran = len(set(schedule.results) - before)
    return replace(finished, ran=ran, faults=[*faults, *finished.faults])


def _open_store(study: str, where: Place, console: Console) -> Tracking:
    """The study's experiment; its database is made if need be."""

    def making() -> None:
        console.print("making MLflow's database, which takes some seconds ...", highlight=False)

    with stage(console, f"{study}: opening MLflow at {where.shown}"):
        return Tracking(where.uri, study, where.output, making=making)


def _take_up(store: Tracking, where: Place, journal: Journal, console: Console) -> None:
    """Put in order what the launches before have left."""
    store.follow_move(where.output)
    store.reconcile()
    _set_damaged_aside(journal, console)


def _set_damaged_aside(journal: Journal, console: Console) -> None:
    for damaged in journal.set_aside_damaged():
        console.print(
            f"{damaged} is damaged: set aside, and its trial runs again", style="yellow", markup=False, soft_wrap=True
        )


def _records(store: Tracking, journal: Journal) -> list[Record]:
    """Every trial that has reached an end, as MLflow holds it or as it waits for MLflow."""
    waiting = [Record("", entry.planned.config, entry.result) for entry in journal.entries()]
    return [*store.records(), *waiting]


def _tell_changes(plan: Plan, schedule: Schedule, store: Tracking, console: Console) -> None:
    """Say what is different in the study file of an earlier launch, and what is kept."""
    latest = store.latest_launch()
    with tempfile.TemporaryDirectory() as folder:
        before = store.study_file(latest, folder) if latest else None
        differing = changes(before, plan.study) if before else []
    if differing:
        kept = sum(planned.config.identity in schedule.results for planned in schedule.planned())
        size = sum(count["total"] for count in schedule.progress().values())
        others = len(schedule.results) - kept
        console.print(told(differing, kept, size - kept, others), highlight=False, soft_wrap=True, markup=False)


def _tell_changed_data(plan: Plan, records: Sequence[Record], console: Console) -> None:
    """Say that the data are no longer those of the launches before, none of whose trials is kept then."""
    problem = plan.study.problem
    configs = [record.config for record in records]
    same = [c for c in configs if (c.problem, dict(c.arguments)) == (problem.name, problem.arguments)]
    hashes = list(dict.fromkeys(config.data_hash for config in same))
    if hashes and plan.data_hash not in hashes:
        text = told_data(hashes[-1], plan.data_hash, len(same))
        console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _launch(store: Tracking, study_file: str) -> Iterator[str]:
    """The parent run of a launch, closed however the launch ends; `conclude` closes one that came to its end."""
    launch = store.start_launch(study_file)
    try:
        yield launch
    except BaseException as error:
        with suppress(Exception):  # the backend may be what is at fault
            store.end_launch(launch, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _sizing(schedule: Schedule, job: cluster.Job) -> cluster.Sizing | None:
    """Have a worker find out how many trials to train at once, if the study leaves it to us and has many."""
    from hpo.execution import ray_tune as cluster

    plan = schedule.plan
    most = math.ceil(schedule.largest_cohort() / max(1, cluster.slots(job.resources)))
    if plan.study.cohort != "auto" or most < 2:
        return None
    references = [planned for planned in plan.references() if planned.config.method in STACKABLE]
    return cluster.Sizing(job, [*plan.static()[-1:], *references[-1:]], most)


def _together(study: Study, sizing: cluster.Sizing | None, console: Console) -> int:
    """How many trials to train at once."""
    if sizing is None:
        return 1 if study.cohort == "auto" else study.cohort
    with stage(console, "trying out how many trials to train at once"):
        size, why = sizing.result()
    console.print(f"trials in each worker: {why}", highlight=False, markup=False, soft_wrap=True)
    return size


def _run(schedule: Schedule, job: cluster.Job, writer: Writer, heart: Heartbeat, console: Console) -> list[str]:
    """Run the schedule. What went wrong beside the trials.

    Raises:
        LaunchLostError: another launch has taken the study over.
    """
    from hpo.execution import ray_tune as cluster

    def lost() -> LaunchLostError | None:
        return writer.lost or heart.lost

    view = View(schedule, console)
    try:
        with view.shown():
            faults = list(dict.fromkeys(cluster.run(schedule, job, [writer, view], lambda: lost() is not None)))
    finally:
        left = writer.close()
    if (error := lost()) is not None:
        raise _left_to_the_owner(error, left)
    waiting, gone = [e for e in left if e.folder], [e for e in left if not e.folder]
    if waiting:
        assert waiting[0].folder is not None
        faults.append(
            f"MLflow did not take {_some(waiting)} ({writer.last_fault}). "
            f"Nothing is lost: they wait in {waiting[0].folder.parent}, and the next command delivers them"
        )
    if gone:
        faults.append(f"MLflow and the disk did not take {_some(gone)}, which will run again ({writer.last_fault})")
    return faults


def _left_to_the_owner(lost: LaunchLostError, left: Sequence[Entry]) -> LaunchLostError:
    """The error of a launch that has lost its study, with where its undelivered trials are."""
    kept = [entry for entry in left if entry.folder]
    where = (
        f"; {_some(kept)} that MLflow had not taken wait in {kept[0].folder.parent}"
        if kept and kept[0].folder
        else ""
    )
    return LaunchLostError(f"{lost}: stopped, nothing more was written to MLflow{where}")


def _some(entries: Sequence[Entry]) -> str:
    names = [entry.planned.name for entry in entries]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} trial{'s' if len(names) > 1 else ''}: {', '.join(names[:5])}{more}"


def conclude(
    plan: Plan,
    schedule: Schedule,
    store: Tracking,
    where: Place,
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
        data = _report_data(plan, store, comparison, trials, where)
        files = write_report(data, folder / "report")
        if weights:
            write_weights(weights, weights_content(plan, comparison, None, runs_of(schedule, store)))
    except OSError as error:
        raise OutputError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    complete, failed = _complete(schedule), _ended(schedule, "failed")
    finished = Finished(comparison, files["html"], weights, failed, _ended(schedule, "diverged"), complete)
    try:
        if parent := launch or store.latest_launch():
            attached = [*files.values(), *([weights] if weights else [])]
            winner = best(comparison)
            note = [*sentences(comparison), *([winner.text] if winner else [])]
            store.log_report(parent, attached, "\n\n".join(note), _headline(comparison))
            store.log_scores(_scores(comparison))
        if launch:
            store.end_launch(launch, "KILLED" if not complete else "FAILED" if failed else "FINISHED")
    except LaunchLostError:
        raise
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


def read_study(path: Path, where: Place, console: Console) -> tuple[Plan, Schedule, Tracking]:
    """A study as MLflow holds it, for commands that run nothing; what waits for MLflow is delivered first."""
    plan = open_plan(path, prepare=False)
    store = Tracking(where.uri, plan.study.name, where.output, create=False)
    journal = where.journal(plan.study.name)
    if (folder := where.folder(plan.study.name)).is_dir():
        with (
            suppress(OutputError, TrackingError, LaunchLostError),
            locked(folder),
        ):  # a launch that runs does it itself
            _deliver_first(store, where, journal, console)
    return plan, _schedule(plan, _records(store, journal), None), store


def _deliver_first(store: Tracking, where: Place, journal: Journal, console: Console) -> None:
    """For commands that run nothing: deliver what waits, unless a launch elsewhere may train the same trials."""
    store.follow_move(where.output)
    if not len(journal):
        return
    store.take_over(check_alone(store, console))
    _set_damaged_aside(journal, console)
    for fault in deliver(journal, store):
        console.print(fault, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _schedule(plan: Plan, records: list[Record], optuna_journal: Path | None) -> Schedule:
    """The schedule with what MLflow holds; failed trials run again, if anything is to run."""
    running = optuna_journal is not None
    again = {"failed"} if plan.study.search.halving else {"failed", STOPPED}
    results: dict[str, TrialResult] = {
        record.config.identity: record.result
        for record in records
        if record.result.status not in again or not running
    }
    swept = [record.config for record in records if record.config.identity in results]
    found = {recipe: [c for c in swept if plan.sweep_recipe(c) == recipe] for recipe in plan.study.gradnorm.recipes}
    sweeps: dict[str, Sweep] = {}
    if optuna_journal is not None:
        storage = optuna_storage(optuna_journal)
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
        spec.space(recipe),
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


def _ended(schedule: Schedule, status: str) -> dict[str, str]:
    """The trials that ended so, and their errors."""
    found = {}
    for planned in schedule.planned():
        result = schedule.results.get(planned.config.identity)
        if result is not None and result.status == status:
            found[planned.name] = result.error
    return found


def _report_data(
    plan: Plan, store: Tracking, comparison: Comparison, trials: pd.DataFrame, where: Place
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
        provenance=_provenance(plan, where) | {"trained at once": _at_once(trials)},
        run_links=store.links(),
        unfinished=trials[~trials["status"].isin(("finished", "stopped"))],
    )


def _at_once(trials: pd.DataFrame) -> str:
    """How many trials of a table were trained at once, in words."""
    counts = trials["together"]
    if counts.max() <= 1 or counts.empty:
        return "1 trial"
    few = "" if counts.min() == counts.max() else f"{counts.min()} to "
    return f"{few}{counts.max()} trials; their seconds are equal shares"


def _provenance(plan: Plan, where: Place) -> dict[str, str]:
    study: Study = plan.study
    return {
        "study file": plan.text,
        "study file sha256": sha256(plan.text.encode()).hexdigest()[:16],
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
