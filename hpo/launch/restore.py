"""A study as it stands: its plan, and what MLflow holds of its trials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console

from hpo.check.user_tracebacks import place_of
from hpo.core.errors import LaunchLostError, OutputError, ProblemError, StudyError, TrackingError
from hpo.core.text import one_line
from hpo.core.trial import Phase, TrialConfig, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.launch.output_lock import locked
from hpo.launch.workspace import Workspace
from hpo.problems import load_problem
from hpo.problems.data_cache import prepare_once
from hpo.study.alpha_sweep import AlphaSweep, Parameters, optuna_storage
from hpo.study.plan import Plan, sweep_parameters
from hpo.study.schedule import Schedule
from hpo.study.study_file import StudyFile, read_study_file
from hpo.tracking.delivery import deliver
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.launch_lock import refuse_other_launch
from hpo.tracking.outbox import Outbox
from hpo.tracking.run_format import Record


def open_plan(found: Path | StudyFile, prepare: bool = True) -> Plan:
    """Read a study file, unless that is done, find its problem, make its data ready.

    Raises:
        StudyError, ProblemError, FileNotFoundError: what is wrong with them.
    """
    study, text = read_study_file(found) if isinstance(found, Path) else found
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


def set_damaged_aside(outbox: Outbox, console: Console) -> None:
    """Set aside what is damaged of the trials that wait for MLflow, and say so."""
    for damaged in outbox.set_aside_damaged():
        console.print(
            f"{damaged} is damaged: set aside, and its trial runs again", style="yellow", markup=False, soft_wrap=True
        )


def read_records(store: StudyExperiment, outbox: Outbox) -> list[Record]:
    """Every trial that has reached an end, as MLflow holds it or as it waits for MLflow."""
    waiting = [Record("", entry.planned.config, entry.result) for entry in outbox.entries()]
    return [*store.records(), *waiting]


def read_study(found: Path | StudyFile, where: Workspace, console: Console) -> tuple[Plan, Schedule, StudyExperiment]:
    """A study as MLflow holds it, for commands that run nothing; what waits for MLflow is delivered first."""
    plan = open_plan(found, prepare=False)
    store = StudyExperiment(where.uri, plan.study.name, where.output, create=False)
    outbox = where.outbox(plan.study.name)
    if (folder := where.folder(plan.study.name)).is_dir():
        with (
            suppress(OutputError, TrackingError, LaunchLostError),
            locked(folder),
        ):  # a launch that runs does it itself
            _deliver_first(store, where, outbox, console)
    return plan, restored_schedule(plan, read_records(store, outbox), None), store


def _deliver_first(store: StudyExperiment, where: Workspace, outbox: Outbox, console: Console) -> None:
    """For commands that run nothing: deliver what waits, unless a launch elsewhere may train the same trials."""
    store.follow_move(where.output)
    if not len(outbox):
        return
    store.take_over(refuse_other_launch(store, console))
    set_damaged_aside(outbox, console)
    for fault in deliver(outbox, store):
        console.print(fault, style="yellow", markup=False, highlight=False, soft_wrap=True)


def restored_schedule(plan: Plan, records: list[Record], optuna_journal: Path | None) -> Schedule:
    """The schedule with what MLflow holds; failed trials run again, if anything is to run."""
    running = optuna_journal is not None
    again = {TrialStatus.FAILED} if plan.study.search.halving else {TrialStatus.FAILED, TrialStatus.STOPPED}
    results: dict[str, TrialResult] = {
        record.config.identity: record.result
        for record in records
        if record.result.status not in again or not running
    }
    swept = [record.config for record in records if record.config.identity in results]
    found = {recipe: [c for c in swept if plan.sweep_recipe(c) == recipe] for recipe in plan.study.gradnorm.recipes}
    sweeps: dict[str, AlphaSweep] = {}
    if optuna_journal is not None:
        storage = optuna_storage(optuna_journal)
        sweeps = {recipe: _sweep(plan, recipe, configs, storage) for recipe, configs in found.items()}
    schedule = Schedule(plan, results, sweeps)
    for recipe, configs in found.items():
        for config in configs:
            schedule.adopt(plan.sweep(recipe, sweep_parameters(config)))
    return schedule


def _sweep(plan: Plan, recipe: str, configs: list[TrialConfig], storage: Any) -> AlphaSweep:
    spec = plan.study.gradnorm

    def identify(parameters: Parameters) -> str:
        return plan.sweep(recipe, parameters).config.identity

    name = f"{plan.study.name}/{recipe}/{identify({'alpha': 0.0, 'learning_rate': 0.025})}/{spec.alpha}"
    return AlphaSweep(
        spec.space(recipe),
        spec.trials,
        seed=plan.study.seed,
        identify=identify,
        storage=storage,
        name=f"{name}/{spec.learning_rate}",
        finished={config.identity: sweep_parameters(config) for config in configs},
    )


def is_complete(schedule: Schedule) -> bool:
    """Whether every trial of the study has a result."""
    size = schedule.plan.size()
    counts = schedule.progress()
    swept = counts[Phase.SWEEP]["done"] + counts[Phase.SWEEP]["failed"] >= size[Phase.SWEEP][1] or not schedule.asking
    return swept and all(count["done"] + count["failed"] >= count["total"] for count in counts.values())
