"""Trials of training functions: run in this process, and compared to the last digit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from hpo.core.trial import EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.problems.training_function import FunctionProblem, TrainingFunction
from hpo.training.checkpoints import Checkpoints
from hpo.training.trial import run_trial
from tests.helpers import training_functions as functions

CPU = torch.device("cpu")


def config(method: str = "equal", test: bool = True, select: str = "last", **settings: Any) -> TrialConfig:
    return TrialConfig("small", {}, "", method, settings, 5, functions.EPOCHS, test, select)


def problem(function: TrainingFunction, **arguments: Any) -> FunctionProblem:
    return FunctionProblem(function, arguments)


def run(trial: TrialConfig, of: Any, checkpoints: Checkpoints | None = None, until: int | None = None) -> TrialResult:
    return run_trial(trial, of, lambda report: None, CPU, checkpoints, until=until)


class Killed(KeyboardInterrupt):
    """The end of a process, as far as a trial can tell."""


def run_killed(trial: TrialConfig, of: Any, checkpoints: Checkpoints, epoch: int) -> None:
    """Run a trial that is killed when it reports an epoch."""

    def kill(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise Killed

    try:
        run_trial(trial, of, kill, CPU, checkpoints)
    except Killed:
        return
    raise AssertionError("it was not killed")


def assert_it_pauses_and_continues(trial: TrialConfig, of: Any, checkpoints: Checkpoints, until: int) -> None:
    """Check that a trial of a framework, of four steps an epoch, is the same with a pause as without."""
    for _ in range(2):  # the second time it was killed when it had paused
        paused = run(trial, of, checkpoints, until)
        assert (paused.status, paused.test, paused.steps) == (TrialStatus.PAUSED, {}, 4 * until)
    resumed = run(trial, of, checkpoints)
    assert resumed.resumed[-1] == 4 * until
    same(run(trial, of), resumed)


def assert_the_test_split_is_read_where_asked(trial: TrialConfig, of: Any) -> None:
    """Check it with ``select: best``, which reads the split after each epoch better than those before.

    The last epoch of the trial has to be its best. Training goes on as if the split had not been read.
    """
    searched = run(replace(trial, test=False), of)
    best = run(replace(trial, select="best"), of)
    (epoch,) = best.best_epochs
    assert (searched.test, best.test, epoch.epoch) == ({}, {}, trial.epochs)
    assert epoch.test == run(trial, of).test != {}
    same(searched, replace(best, best_epochs=[]))


def same(one: TrialResult, other: TrialResult) -> None:
    """Check that two trials are equal to the last digit, except their clocks and how they were interrupted."""
    free: dict[str, Any] = {"seconds": 0.0, "resumed": [], "trajectory": {}}
    assert replace(one, **free) == replace(other, **free)
    assert one.trajectory.keys() == other.trajectory.keys()
    for column, values in one.trajectory.items():
        assert values.tobytes() == other.trajectory[column].tobytes(), column
