"""A worker's side of a study: train the given trials and report. Depends only on torch, not on a scheduler."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from hpo.core.command_folder import tell_command_folder
from hpo.core.storage import Storage
from hpo.core.text import one_line, with_traceback
from hpo.core.trial import EpochReport, Event, EventKind, TrialConfig, TrialResult, TrialStatus, WorkerTask
from hpo.core.user_calls import Boundary
from hpo.problems import load_problem
from hpo.problems.data_cache import prepare_once
from hpo.problems.training_function import AnyProblem, FunctionProblem
from hpo.training.checkpoints import MARKER, Checkpoints
from hpo.training.cohort import run_cohort
from hpo.training.cohort_size import choose_size
from hpo.training.global_state import GlobalState, as_found
from hpo.training.stacked_network import NotStackable
from hpo.training.stacking_check import check_stackable

MOST_REPORTS = 50  # per trial; each costs the driver some milliseconds
ALONE = "one at a time, since a training function is called for one trial"
Report = Callable[[dict[str, Any]], None]


def train_cohort(task: WorkerTask, storage: str, report: Report) -> None:
    """Train the trials of a cohort, at once if they can be, and report their epochs and results.

    Args:
        task: the worker's instructions.
        storage: address of the folder of the study's checkpoints.
        report: takes ``events``, a list of `Event`, since Tune flattens mappings.

    Raises:
        RuntimeError: a config does not have the requested identity.
    """
    trials = asked_for(task)
    kept = Storage(storage)
    device, note = device_of(task.gpu)
    voice = EventReporter(report, kept, note)
    boundary = Boundary()
    try:
        problem = problem_of(task, trials)
    except BaseException as error:
        boundary.pass_on(error)
        for trial in trials:
            voice.on_ended(trial, TrialResult(TrialStatus.FAILED, error=with_traceback(error)))
        return
    boundary.end_fork()
    of_a_seed = len(trials) > len({trial.seed for trial in trials})
    why = _unstackable(task.target, problem, trials, device) if of_a_seed else ""
    if why:
        voice.on_alone(len(trials), why)
    seconds, together = task.checkpoint_seconds, 1 if why else len(trials)
    checkpoints = [Checkpoints(kept, trial.identity, seconds, together) for trial in trials]
    run_cohort(trials, problem, device, voice, checkpoints, together=not why, until=task.until)


def size_cohort(task: WorkerTask, most: int) -> tuple[int, str]:
    """Measure how many trials like these to train at once; return the number and the reason.

    Args:
        task: as for `train_cohort`.
        most: the maximum number.
    """
    trials = asked_for(task)
    device, _ = device_of(task.gpu)
    share = task.gpu if device.type == "cuda" else task.cpu / (os.cpu_count() or 1)
    boundary = Boundary()
    try:
        problem = problem_of(task, trials)
        boundary.end_fork()
        if isinstance(problem, FunctionProblem):
            return 1, ALONE
        found = choose_size(problem, trials, device, most, round(1 / min(1.0, share)))
    except BaseException as error:  # each trial will report it
        boundary.end_fork()
        return 1, f"one at a time, since the measurement failed: {one_line(error)}"
    return found.size, found.why


class EventReporter:
    """The callbacks of `run_cohort`, which become events of a report.

    Args:
        report: takes the events.
        storage: of the study.
        note: an alarm of every trial, if it is not empty.
        cleans: whether a failed trial's checkpoints are removed: it runs again after the cause is fixed, from its
            first step.
    """

    def __init__(self, report: Report, storage: Storage, note: str, cleans: bool = True) -> None:
        self._report, self._storage, self._note, self._cleans = report, storage, note, cleans

    def on_resumed(self, config: TrialConfig, steps: int) -> None:
        """Report that a trial continues from a checkpoint."""
        self._tell([Event(EventKind.RESUMED, config.identity, steps)])

    def on_epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        """Report that trials have each trained an epoch."""
        every = -(-reports[0][0].epochs // MOST_REPORTS) if reports else 1
        due = [(c, r) for c, r in reports if r.epoch % every == 0 or r.epoch == r.epochs]
        if due:
            self._tell([Event(EventKind.EPOCH, config.identity, epoch) for config, epoch in due])

    def on_ended(self, config: TrialConfig, result: TrialResult) -> None:
        """Report the result of a trial."""
        result.alarms += [self._note] if self._note else []
        result.alarms += _not_shared(self._storage)
        if result.status is TrialStatus.FAILED and self._cleans:
            Checkpoints(self._storage, config.identity, 0.0).remove()
        self._tell([Event(EventKind.RESULT, config.identity, result)])

    def on_alone(self, count: int, why: str) -> None:
        """Report that the trials of the cohort are trained one after another."""
        self._tell([Event(EventKind.ALONE, "", f"{count} trials of a cohort are trained one after another: {why}")])

    def _tell(self, events: list[Event]) -> None:
        self._report({"events": events, "count": len(events)})  # Tune prints a line for a report without a number


def asked_for(task: WorkerTask) -> list[TrialConfig]:
    """Return the trials of a cohort, after setting up what loading their problem needs."""
    for path in task.import_paths:
        if path not in sys.path:
            sys.path.append(path)  # for the user's problem; after installed packages
    tell_command_folder(task.folder)
    torch.set_num_threads(max(1, int(task.cpu)))
    trials = [TrialConfig(**settings) for settings in task.cohort]
    for identity, trial in zip(task.identities, trials, strict=True):
        if trial.identity != identity:
            raise RuntimeError(f"asked to run trial {identity}, got the config of {trial.identity}")
    return trials


def problem_of(task: WorkerTask, trials: Sequence[TrialConfig]) -> AnyProblem:
    """Load the problem, and check that its data are those of the study."""
    loaded = _prepared(task.target, _Frozen(trials[0].arguments))
    loaded.settings.put_back()  # Tune trains each cohort in a new thread
    problem = loaded.problem
    with as_found():
        found = problem.data_hash()
    if found != trials[0].data_hash:
        what = "code or data" if isinstance(problem, FunctionProblem) else "data"
        raise RuntimeError(f"the {what} of this node have hash {found}, the study's have {trials[0].data_hash}")
    return problem


_tried: dict[tuple[str, _Frozen], str] = {}  # why a problem cannot be stacked; empty if it can


def _unstackable(target: str, problem: AnyProblem, trials: Sequence[TrialConfig], device: torch.device) -> str:
    """Return why trials cannot be trained at once; empty if they can. Checked once per process."""
    if isinstance(problem, FunctionProblem):
        return ALONE
    key = target, _Frozen(trials[0].arguments)
    if key not in _tried:
        try:
            check_stackable(problem, trials, device)
            _tried[key] = ""
        except NotStackable as reason:
            _tried[key] = str(reason)
    return _tried[key]


def _not_shared(storage: Storage) -> list[str]:
    """Return a warning if this node does not see the file that the driver has put into the storage."""
    try:
        storage.read(MARKER)
    except FileNotFoundError:
        found = (
            f"its node does not share {storage} with the driver, so no other node can continue from its checkpoints"
        )
        return [f"{found}: name a shared folder or a bucket with --storage"]
    except OSError:
        return []  # the checkpoints report it
    return []


def device_of(gpu: float, number: int = 0) -> tuple[torch.device, str]:
    """Return the device to train on, and a note if it is not the one asked for.

    Args:
        gpu: GPUs of the process.
        number: of its GPU among the visible ones; Ray makes only a worker's own visible.
    """
    if gpu and torch.cuda.is_available():
        return torch.device("cuda", number), ""
    note = f"was given {gpu:g} GPU that torch cannot see on this node and trained on the CPU" if gpu else ""
    return torch.device("cpu"), note


class _Frozen(dict[str, Any]):
    """A problem's arguments as a key of the cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@dataclass(frozen=True)
class _Loaded:
    """A problem, and the settings of the thread in which its module, constructor and ``prepare()`` ran."""

    problem: AnyProblem
    settings: GlobalState


@lru_cache(maxsize=2)
def _prepared(name: str, arguments: _Frozen) -> _Loaded:
    """Load a problem once per process; its data are prepared once per machine."""
    problem = load_problem(name, arguments)
    prepare_once(problem)
    return _Loaded(problem, GlobalState.of_thread())
