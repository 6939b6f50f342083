"""A worker's side of a study: train the trials it is given and report. Needs torch alone; knows no scheduler."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from hpo.core.storage import Storage
from hpo.core.text import one_line, with_traceback
from hpo.core.trial import EpochReport, TrialConfig, TrialResult
from hpo.core.user_calls import Boundary
from hpo.problems import load_problem
from hpo.problems.base import Problem
from hpo.problems.data_cache import prepare_once
from hpo.training.checkpoints import MARKER, Checkpoints
from hpo.training.cohort_loop import run_cohort
from hpo.training.cohort_size import choose_size
from hpo.training.global_state import GlobalState, as_found
from hpo.training.stacked_network import NotStackable
from hpo.training.stacking_check import check_stackable

MOST_REPORTS = 50  # a trial; each costs the driver some milliseconds
EPOCH, RESULT, RESUMED, ALONE = "epoch", "result", "resumed", "alone"  # kinds of events

Event = tuple[str, str, Any]  # its kind, the identity of a trial, what there is to tell
Report = Callable[[dict[str, Any]], None]


def train_cohort(config: Mapping[str, Any], report: Report) -> None:
    """Train the trials of a cohort, at once if they can be, and report their epochs and results.

    Args:
        config: ``cohort`` (configs as mappings), for each its ``identities`` and ``until`` (epochs);
            ``import_paths``, ``cpu`` and ``gpu`` for each, ``target`` (the problem as ``package.module:Class``, so
            that the node needs not know its name), ``storage`` and ``checkpoint_seconds``.
        report: takes ``events``, a list of `Event`, since Tune flattens mappings: ``epoch`` and ``result`` with the
            fields of their classes, ``resumed`` with the steps of the checkpoint that a trial goes on from, ``alone``
            with why the cohort is trained one after another.

    Raises:
        RuntimeError: a config is not the one that was asked for.
    """
    trials = _asked_for(config)
    storage = Storage(config["storage"])
    device, note = _device(config["gpu"])
    voice = _Voice(report, storage, note)
    boundary = Boundary()
    try:
        problem = _problem_of(config, trials)
    except BaseException as error:
        boundary.pass_on(error)
        for trial in trials:
            voice.ended(trial, TrialResult("failed", error=with_traceback(error)))
        return
    boundary.end_fork()
    of_a_seed = len(trials) > len({trial.seed for trial in trials})
    why = _unstackable(config["target"], problem, trials, device) if of_a_seed else ""
    if why:
        voice.alone(len(trials), why)
    seconds, together = config["checkpoint_seconds"], 1 if why else len(trials)
    checkpoints = [Checkpoints(storage, trial.identity, seconds, together) for trial in trials]
    run_cohort(trials, problem, device, voice, checkpoints, together=not why, until=config["until"])


def size_cohort(config: Mapping[str, Any], most: int) -> tuple[int, str]:
    """How many trials such as these to train at once, and why, in words.

    Args:
        config: as for `train_cohort`.
        most: more are not wanted.
    """
    trials = _asked_for(config)
    device, _ = _device(config["gpu"])
    share = config["gpu"] if device.type == "cuda" else config["cpu"] / (os.cpu_count() or 1)
    boundary = Boundary()
    try:
        problem = _problem_of(config, trials)
        boundary.end_fork()
        found = choose_size(problem, trials, device, most, round(1 / min(1.0, share)))
    except BaseException as error:  # each trial will say so itself
        boundary.end_fork()
        return 1, f"one at a time, since trying it out failed: {one_line(error)}"
    return found.size, found.why


class _Voice:
    """What `run_cohort` tells, as events of a report."""

    def __init__(self, report: Report, storage: Storage, note: str) -> None:
        self._report, self._storage, self._note = report, storage, note

    def resumed(self, config: TrialConfig, steps: int) -> None:
        self._tell([(RESUMED, config.identity, steps)])

    def epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        every = -(-reports[0][0].epochs // MOST_REPORTS) if reports else 1
        due = [(c, r) for c, r in reports if r.epoch % every == 0 or r.epoch == r.epochs]
        if due:
            self._tell([(EPOCH, config.identity, vars(epoch)) for config, epoch in due])

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        result.alarms += [self._note] if self._note else []
        result.alarms += _not_shared(self._storage)
        if result.status == "failed":  # it runs again with something mended, and so from its first step
            Checkpoints(self._storage, config.identity, 0.0).remove()
        self._tell([(RESULT, config.identity, vars(result))])

    def alone(self, count: int, why: str) -> None:
        self._tell([(ALONE, "", f"{count} trials of a cohort are trained one after another: {why}")])

    def _tell(self, events: list[Event]) -> None:
        self._report({"events": events, "count": len(events)})  # of a report without a number Tune would print a line


def _asked_for(config: Mapping[str, Any]) -> list[TrialConfig]:
    """The trials of a cohort, and what a worker needs before it can load their problem."""
    for path in config["import_paths"]:
        if path not in sys.path:
            sys.path.append(path)  # the user's problem; never before what is installed
    torch.set_num_threads(max(1, int(config["cpu"])))
    trials = [TrialConfig(**settings) for settings in config["cohort"]]
    for identity, trial in zip(config["identities"], trials, strict=True):
        if trial.identity != identity:
            raise RuntimeError(f"asked to run trial {identity}, got the config of {trial.identity}")
    return trials


def _problem_of(config: Mapping[str, Any], trials: Sequence[TrialConfig]) -> Problem:
    """The problem, with the data that the study has."""
    loaded = _prepared(config["target"], _Frozen(trials[0].arguments))
    loaded.settings.put_back()  # Tune trains each cohort in a thread of its own
    problem = loaded.problem
    with as_found():
        found = problem.data_hash()
    if found != trials[0].data_hash:
        raise RuntimeError(f"the data of this node have hash {found}, the study's have {trials[0].data_hash}")
    return problem


_tried: dict[tuple[str, _Frozen], str] = {}  # why a problem cannot be stacked; nothing if it can


def _unstackable(target: str, problem: Problem, trials: Sequence[TrialConfig], device: torch.device) -> str:
    """Why trials cannot be trained at once; nothing if they can. Tried once a process."""
    key = target, _Frozen(trials[0].arguments)
    if key not in _tried:
        try:
            check_stackable(problem, trials, device)
            _tried[key] = ""
        except NotStackable as reason:
            _tried[key] = str(reason)
    return _tried[key]


def _not_shared(storage: Storage) -> list[str]:
    """The driver has put a file there that every node should see."""
    try:
        storage.read(MARKER)
    except FileNotFoundError:
        found = (
            f"its node does not share {storage} with the driver, so that no other node can go on from its checkpoints"
        )
        return [f"{found}: name a shared folder or a bucket with --storage"]
    except OSError:
        return []  # the checkpoints say so themselves
    return []


def _device(gpu: float) -> tuple[torch.device, str]:
    if gpu and torch.cuda.is_available():
        return torch.device("cuda", 0), ""  # Ray shows a worker only its own
    note = f"was given {gpu:g} GPU that torch cannot see on this node and trained on the CPU" if gpu else ""
    return torch.device("cpu"), note


class _Frozen(dict[str, Any]):
    """Arguments as a key of the cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@dataclass(frozen=True)
class _Loaded:
    """A problem, and what its module, constructor and ``prepare()`` have set in the thread that loaded it."""

    problem: Problem
    settings: GlobalState


@lru_cache(maxsize=2)
def _prepared(name: str, arguments: _Frozen) -> _Loaded:
    """The problem, once a process; its data once a machine."""
    problem = load_problem(name, arguments)
    prepare_once(problem)
    return _Loaded(problem, GlobalState.of_thread())
