"""Restore a study: its plan and the trials that MLflow holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from hpo.check.user_tracebacks import place_of
from hpo.core.errors import LaunchLostError, OutputError, ProblemError, StudyError, TrackingError
from hpo.core.text import one_line
from hpo.core.trial import TrialStatus
from hpo.core.user_calls import Boundary
from hpo.launch.output_lock import locked
from hpo.launch.workspace import Workspace
from hpo.problems import Problem, load_problem
from hpo.problems.data_cache import prepare_once
from hpo.problems.training_function import AnyProblem
from hpo.study.argument_sets import argument_sets
from hpo.study.earlier_versions import as_begun
from hpo.study.phases.refine import check_sampler
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.study.spec import Study
from hpo.study.study_file import StudyFile, read_study_file
from hpo.tracking.delivery import deliver
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.launch_lock import refuse_other_launch
from hpo.tracking.outbox import Outbox
from hpo.tracking.run_format import Record


def open_plan(found: Path | StudyFile, prepare: bool = True) -> Plan:
    """Read a study file unless it is already read, find its problem and prepare its data.

    Raises:
        StudyError, ProblemError, FileNotFoundError: the study file, the problem or its data cannot be used.
    """
    study, text = read_study_file(found) if isinstance(found, Path) else found
    with _user_code(f"problem: {study.problem.name!r} cannot be used"):
        problem = load_problem(study.problem.name, study.problem.arguments)
        if prepare:
            prepare_once(problem)
            _check_shares(problem, study)
        plan = Plan(study, problem, text, argument_sets(study, problem))
        if prepare:
            check_sampler(plan)
        return plan


def _check_shares(problem: AnyProblem, study: Study) -> None:
    """Check on the first batch that the processes of a trial can share the batches.

    Raises:
        ProblemError: they cannot.
    """
    if study.resources.workers > 1 and isinstance(problem, Problem):
        problem.shard(next(iter(problem.loader("train", study.seed))), 0, study.resources.workers)


@contextmanager
def _user_code(what: str) -> Iterator[None]:
    """Report an exception of the problem's own code in one line, with its location.

    Raises:
        ProblemError: in place of every exception except Ctrl-C and errors that already report bad input.
    """
    boundary = Boundary()
    try:
        yield
    except (ProblemError, StudyError):
        boundary.end_fork()
        raise
    except BaseException as error:
        boundary.pass_on(error)
        if type(error) is FileNotFoundError:  # of data; the command line shows it unchanged
            raise
        where = place_of(error)
        raise ProblemError(f"{what}: {one_line(error, 1000)}{f' (at {where})' if where else ''}") from error
    boundary.end_fork()


def set_damaged_aside(outbox: Outbox, console: Console) -> None:
    """Set aside damaged entries of the outbox and report them."""
    for damaged in outbox.set_aside_damaged():
        console.print(
            f"{damaged} is damaged: set aside, and its trial runs again", style="yellow", markup=False, soft_wrap=True
        )


def read_records(store: StudyExperiment, outbox: Outbox) -> list[Record]:
    """Return every trial that has ended, from MLflow or from the outbox."""
    waiting = [Record("", entry.planned.config, entry.result) for entry in outbox.entries()]
    return [*store.records(), *waiting]


def read_study(found: Path | StudyFile, where: Workspace, console: Console) -> tuple[Plan, Schedule, StudyExperiment]:
    """Restore a study from MLflow for commands that run no trials; the outbox is delivered first."""
    plan = open_plan(found, prepare=False)
    store = StudyExperiment(where.uri, plan.study.name, where.output, create=False)
    outbox = where.outbox(plan.study.name)
    if (folder := where.folder(plan.study.name)).is_dir():
        with (
            suppress(OutputError, TrackingError, LaunchLostError),
            locked(folder),
        ):  # a running launch does it itself
            _deliver_first(store, where, outbox, console)
    plan = as_begun(plan, store.first_version())
    return plan, restored_schedule(plan, read_records(store, outbox), runs=False), store


def _deliver_first(store: StudyExperiment, where: Workspace, outbox: Outbox, console: Console) -> None:
    """Deliver the outbox, for commands that run no trials, unless a launch elsewhere may train the same trials."""
    store.follow_move(where.output)
    if not len(outbox):
        return
    store.take_over(refuse_other_launch(store, console))
    set_damaged_aside(outbox, console)
    for fault in deliver(outbox, store):
        console.print(fault, style="yellow", markup=False, highlight=False, soft_wrap=True)


def restored_schedule(plan: Plan, records: list[Record], runs: bool) -> Schedule:
    """Return the schedule with MLflow's results; when trials are to run, failed ones run again."""
    again = {TrialStatus.FAILED} if plan.study.search.halving else {TrialStatus.FAILED, TrialStatus.STOPPED}
    kept = [record for record in records if record.result.status not in again or not runs]
    results = {record.config.identity: record.result for record in kept}
    configs = {record.config.identity: record.config for record in kept}
    return Schedule(plan, results, configs.values(), runs)
