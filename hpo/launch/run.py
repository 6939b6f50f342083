"""From a study file to its verdict: open, run, compare, report. The command line calls this module."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hpo.core.environment import close_local_ray
from hpo.core.errors import LaunchLostError
from hpo.launch.conclude import Finished, assess, conclude
from hpo.launch.output_lock import locked
from hpo.launch.progress import ProgressView, stage
from hpo.launch.provisional import ProvisionalAnswer
from hpo.launch.restore import open_plan, read_records, restored_schedule, set_damaged_aside
from hpo.launch.run_scores import scores_so_far
from hpo.launch.workspace import Workspace
from hpo.problems import target_of
from hpo.study.earlier_versions import as_begun
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.study.spec import Study
from hpo.study.spec_diff import changes, describe_changed_data, describe_changes
from hpo.study.study_file import StudyFile
from hpo.tracking.backend import check_answers
from hpo.tracking.delivery import Heartbeat, MlflowWriter, deliver
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.launch_lock import refuse_other_launch
from hpo.tracking.outbox import EndedTrial, Outbox
from hpo.tracking.run_format import Record
from hpo.training.checkpoints import mark_shared, remove

if TYPE_CHECKING:
    from hpo.execution.cohort_sizing import CohortSizing
    from hpo.execution.job import Job


def run_study(
    found: Path | StudyFile, where: Workspace, address: str | None, console: Console, wait: float = 0.0
) -> Finished:
    """Run what is left of a study, then compare, report and export.

    Args:
        found: the study file, or its content.
        where: the places of the results.
        address: of a Ray cluster; ``None`` starts one on this machine.
        console: for the user.
        wait: minutes to wait for a node that can hold a trial.

    Raises:
        ClusterError, TrackingError, OutputError, StorageError: before any trial runs; also all errors of `open_plan`.
    """
    with stage(console, "preparing data"):
        plan = open_plan(found)
    study = plan.study.name
    folder, outbox, checkpoints = where.folder(study), where.outbox(study), where.checkpoints(study)
    check_answers(where.uri)
    with locked(folder), ExitStack() as parent:
        store = _open_store(study, where, console)
        store.take_over(refuse_other_launch(store, console))
        _take_up(store, where, outbox, console)
        faults = deliver(outbox, store, partial(remove, checkpoints))
        records = read_records(store, outbox)
        described, plan = plan.study, as_begun(plan, store.first_version())
        schedule = restored_schedule(plan, records, runs=True)
        before, launch = set(schedule.results), None
        if not schedule.is_complete:
            if address is None:
                close_local_ray()
            from hpo.execution.job import Job
            from hpo.execution.ray_cluster import connected

            _tell_changes(described, schedule, store, console)
            _tell_changed_data(plan, records, console)
            with connected(address, plan.study.resources, wait, partial(stage, console)) as cluster:
                job = Job(
                    plan.study.resources,
                    checkpoints.address,
                    plan.study.checkpoint_seconds,
                    target_of(plan.study.problem.name),
                    left_running=cluster.left_running,
                )
                sizing = _sizing(schedule, job)  # continues while we open the launch
                launch = parent.enter_context(_launch(store, plan.text))
                heart = parent.enter_context(Heartbeat(store, launch))
                refuse_other_launch(store, console, launch)  # again: Ray takes its time, and --wait more
                console.print(f"{study}: {cluster.words}; MLflow at {where.shown}", highlight=False, soft_wrap=True)
                mark_shared(checkpoints)
                job = replace(job, together=_together(plan, sizing, console))
                scores = partial(scores_so_far, schedule)
                writer = MlflowWriter(store, launch, outbox, partial(remove, checkpoints), scores)
                early = ProvisionalAnswer(schedule, folder / "weights.json", console)
                faults += _run(schedule, job, writer, heart, console, early)
        with stage(console, f"{study}: comparing, writing the report"):
            finished = conclude(assess(plan, schedule, store, where), folder, launch)
        if finished.complete:
            remove(checkpoints, "")  # including those of workers that had lost their driver
    ran = len(set(schedule.results) - before)
    return replace(finished, ran=ran, faults=[*faults, *finished.faults])


def _open_store(study: str, where: Workspace, console: Console) -> StudyExperiment:
    """Open the study's experiment; create its database if needed."""

    def making() -> None:
        console.print("creating MLflow's database, which takes some seconds ...", highlight=False)

    with stage(console, f"{study}: opening MLflow at {where.shown}"):
        return StudyExperiment(where.uri, study, where.output, making=making)


def _take_up(store: StudyExperiment, where: Workspace, outbox: Outbox, console: Console) -> None:
    """Clean up after earlier launches: artifact locations, open runs, damaged entries of the outbox."""
    store.follow_move(where.output)
    store.reconcile()
    set_damaged_aside(outbox, console)


def _tell_changes(study: Study, schedule: Schedule, store: StudyExperiment, console: Console) -> None:
    """Print the changes in the study file since the last launch, and what is kept."""
    latest = store.latest_launch()
    with tempfile.TemporaryDirectory() as folder:
        before = store.study_file(latest, folder) if latest else None
        differing = changes(before, study) if before else []
    if differing:
        kept = sum(planned.config.identity in schedule.results for planned in schedule.planned())
        size = sum(count["total"] for count in schedule.progress().values())
        others = len(schedule.results) - kept
        console.print(
            describe_changes(differing, kept, size - kept, others), highlight=False, soft_wrap=True, markup=False
        )


def _tell_changed_data(plan: Plan, records: Sequence[Record], console: Console) -> None:
    """Print that the data have changed since earlier launches; none of their trials is kept then."""
    problem = plan.study.problem
    configs = [record.config for record in records]
    same = [c for c in configs if (c.problem, dict(c.arguments)) == (problem.name, problem.arguments)]
    hashes = list(dict.fromkeys(config.data_hash for config in same))
    if hashes and plan.data_hash not in hashes:
        what = "code or data" if plan.is_function else "data"
        text = describe_changed_data(hashes[-1], plan.data_hash, len(same), what)
        console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def _launch(store: StudyExperiment, study_file: str) -> Iterator[str]:
    """Open the parent run of a launch and close it if the launch fails; otherwise `conclude` closes it."""
    launch = store.start_launch(study_file)
    try:
        yield launch
    except BaseException as error:
        with suppress(Exception):  # the backend may be the cause
            store.end_launch(launch, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _sizing(schedule: Schedule, job: Job) -> CohortSizing | None:
    """Let a worker measure how many trials to train at once, if ``cohort`` is ``auto`` and trials are enough."""
    from hpo.execution.cohort_sizing import CohortSizing
    from hpo.execution.ray_cluster import slots

    plan = schedule.plan
    most = math.ceil(schedule.largest_cohort() / max(1, slots(job.resources)))
    if plan.study.cohort != "auto" or most < 2 or plan.is_function or job.resources.workers > 1:
        return None
    return CohortSizing(job, schedule.sample(), most)


def _together(plan: Plan, sizing: CohortSizing | None, console: Console) -> int:
    """Return the number of trials to train at once."""
    workers = plan.study.resources.workers
    if plan.is_function or workers > 1:
        why = ", by a training function" if plan.is_function else ""
        group = f" in {workers} processes" if workers > 1 else ""
        console.print(f"trials in each worker: one at a time{why}{group}", highlight=False)
        return 1
    if sizing is None:
        return 1 if plan.study.cohort == "auto" else plan.study.cohort
    with stage(console, "measuring how many trials to train at once"):
        size, why = sizing.result()
    console.print(f"trials in each worker: {why}", highlight=False, markup=False, soft_wrap=True)
    return size


def _run(
    schedule: Schedule, job: Job, writer: MlflowWriter, heart: Heartbeat, console: Console, early: ProvisionalAnswer
) -> list[str]:
    """Run the schedule; return the faults other than failed trials.

    Raises:
        LaunchLostError: another launch has taken the study over.
    """
    from hpo.execution.ray_tune import run

    def lost() -> LaunchLostError | None:
        return writer.lost or heart.lost

    view = ProgressView(schedule, console)
    try:
        with view.shown():
            faults = list(dict.fromkeys(run(schedule, job, [writer, view, early], lambda: lost() is not None)))
    finally:
        left = writer.close()
    if (error := lost()) is not None:
        raise _left_to_the_owner(error, left)
    waiting, gone = [e for e in left if e.folder], [e for e in left if not e.folder]
    if waiting:
        assert waiting[0].folder is not None
        faults.append(
            f"MLflow did not accept {_some(waiting)} ({writer.last_fault}). "
            f"Nothing is lost: they wait in {waiting[0].folder.parent}, and the next command delivers them"
        )
    if gone:
        faults.append(f"MLflow and the disk did not accept {_some(gone)}, which will run again ({writer.last_fault})")
    if writer.unscored:
        faults.append(f"scores were not written with their trials, but at the end ({writer.unscored})")
    return faults


def _left_to_the_owner(lost: LaunchLostError, left: Sequence[EndedTrial]) -> LaunchLostError:
    """Return the error of a launch that has lost its study, with the place of its undelivered trials."""
    kept = [entry for entry in left if entry.folder]
    where = (
        f"; {_some(kept)} that MLflow had not taken wait in {kept[0].folder.parent}"
        if kept and kept[0].folder
        else ""
    )
    return LaunchLostError(f"{lost}: stopped, nothing more was written to MLflow{where}")


def _some(entries: Sequence[EndedTrial]) -> str:
    names = [entry.planned.name for entry in entries]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{len(names)} trial{'s' if len(names) > 1 else ''}: {', '.join(names[:5])}{more}"
