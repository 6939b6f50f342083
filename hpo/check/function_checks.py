"""Checks of a training function: it is called whole, for one or two epochs at a time."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from hpo.check.context import SEED, Level, Notes, Watched
from hpo.check.other_process import hashes_elsewhere
from hpo.check.user_tracebacks import place_in
from hpo.check.words import apart, every, values
from hpo.core.number_format import duration, number
from hpo.core.storage import Storage
from hpo.core.text import message, shortened
from hpo.core.trial import EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.problems.by_value import kept_class
from hpo.problems.training_function import FunctionProblem
from hpo.training.checkpoints import Checkpoints
from hpo.training.trial import run_trial

EPOCHS = 2
APART = 100.0  # a ratio of weights with which any network trains otherwise than with equal weights


class FunctionContext(Watched):
    """A training function that is looked at.

    Args:
        name: of the problem.
        problem: the function with its arguments.
        device: where trials would train.

    Attributes:
        result: of two epochs with equal weights, the test split read at their end.
        reports: of these epochs.
        seconds: that this took, with evaluations.
    """

    problem: FunctionProblem
    result: TrialResult
    reports: list[EpochReport]

    def __init__(self, name: str, problem: FunctionProblem, device: torch.device) -> None:
        super().__init__(name, problem, problem.training.function, device)
        self.tasks = [task.name for task in problem.tasks]
        self.seconds = 0.0

    def train(
        self,
        method: str = "equal",
        until: int = EPOCHS,
        checkpoints: Checkpoints | None = None,
        **settings: Any,
    ) -> tuple[TrialResult, list[EpochReport]]:
        """Call the function as a trial of two epochs."""
        reports: list[EpochReport] = []
        config = TrialConfig("", {}, "", method, settings, SEED, EPOCHS, test=True)
        result = run_trial(config, self.problem, reports.append, self.device, checkpoints, until=until)
        return result, reports

    def fault(self, result: TrialResult) -> tuple[Level, str, str]:
        """Describe a trial without a score by its first line and the place in the user's code."""
        line = shortened(result.error.partition("\n\n")[0])
        where = place_in(result.error, self.folders)
        missing = line.startswith(FileNotFoundError.__name__)
        allowed = "absolute paths, since the current folder of a worker is another one" if missing else ""
        return "fault", f"{where}: {line}" if where else line, allowed


def check_training(context: FunctionContext) -> Notes:
    """Two epochs with equal weights, then the test split."""
    start = time.perf_counter()
    context.result, context.reports = result, reports = context.train()
    context.seconds = time.perf_counter() - start
    if result.status is not TrialStatus.FINISHED:
        yield context.fault(result)
        return
    steps = f"{result.steps} steps" if _has_steps(result) else "no steps of a balancer: it trains with trial.weights"
    losses = f", first losses: {values(result.initial_losses)}" if _has_steps(result) else ""
    ratio = apart({task: abs(loss) for task, loss in result.initial_losses.items()})
    yield "ok", f"{EPOCHS} epochs, {steps}{losses}{ratio}; on val: {values(reports[-1].validation)}", ""
    for alarm in result.alarms:
        yield "warning", alarm, ""


def check_repeating(context: FunctionContext) -> Notes:
    """The same seed gives the same training."""
    start = time.perf_counter()
    again = context.train()
    context.seconds = min(context.seconds, time.perf_counter() - start)  # the first call may load the data
    if found := differences(context, *again):
        allowed = "the same network and the same batches for a seed: seed generators of your own with trial.seed"
        yield "warning", f"a second trial of the same seed differs: {found}", allowed
    else:
        yield "ok", "a second trial of the same seed is the same", ""


def check_resuming(context: FunctionContext) -> Notes:
    """A trial that is interrupted after its first epoch ends like one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Storage(folder), "check", 0.0)
        first, _ = context.train(until=1, checkpoints=checkpoints)
        if first.status is not TrialStatus.PAUSED:
            yield context.fault(first)
            return
        again = context.train(checkpoints=checkpoints)
    result = again[0]
    allowed = "all that training changes in trial.epochs(model=model, optimizer=optimizer, loader=loader, ...)"
    if result.status is not TrialStatus.FINISHED:
        yield context.fault(result)
    elif found := differences(context, *again):
        yield "warning", f"a trial that is interrupted after an epoch and resumed differs: {found}", allowed
    elif not result.resumed:
        yield "warning", "an interrupted trial begins again at the first step", allowed
    else:
        yield "ok", "a trial that is interrupted after an epoch and resumed is the same", ""


def check_weights(context: FunctionContext) -> Notes:
    """Other weights train another network."""
    if len(context.tasks) < 2:
        yield "ok", "one task has one weight", ""
        return
    weights = {task: APART if k == 0 else 1.0 for k, task in enumerate(context.tasks)}
    result, reports = context.train("static", until=1, weights=weights)
    if result.status not in (TrialStatus.PAUSED, TrialStatus.DIVERGED):
        yield context.fault(result)
    elif reports and reports[0].validation == context.reports[0].validation:
        found = (
            f"with weight {APART:g} for {context.tasks[0]} the metrics are those of equal weights, to the last digit"
        )
        allowed = "a network that is trained by balancer.backward(losses), or by the losses times trial.weights"
        yield "fault", found, allowed
    else:
        yield "ok", "other weights train another network", ""


def check_gradnorm(context: FunctionContext) -> Notes:
    """An epoch of a method that needs gradients of the shared layer."""
    alpha = 0.5 if min(context.result.initial_losses.values()) >= 0 else 0.0
    result, _ = context.train("gradnorm", until=1, recipe="robust", alpha=alpha)
    if result.status is TrialStatus.REFUSED:
        yield "ok", f"methods whose weights are not fixed are left out: {result.error}", ""
        return
    if result.status not in (TrialStatus.PAUSED, TrialStatus.DIVERGED):
        yield context.fault(result)
        return
    norms = result.trajectory["G"][0] / result.trajectory["w"][0]
    measured = {task: float(norm) for task, norm in zip(context.tasks, norms, strict=True) if np.isfinite(norm)}
    if not measured:
        found = "no gradient of the shared layer was measured in the first step"
        yield "warning", found, "trial.balancer(shared=...), the last layer whose weights all tasks share"
        return
    yield "ok", f"norms of the gradients: {values(measured)}{apart(measured)}", ""


def check_time(context: FunctionContext) -> Notes:
    """Report the time of an epoch and of a trial."""
    each, epochs = context.seconds / EPOCHS, context.problem.epochs
    found = f"an epoch about {duration(each)}, a trial of {epochs} about {duration(epochs * each)}"
    yield "ok", f"{found}, on {context.device}", ""


def check_cohort(context: FunctionContext) -> Notes:
    """Report that trials are trained one at a time."""
    del context
    yield "ok", "trials are trained one at a time, since a training function is called for one trial", ""


def check_hash(context: FunctionContext) -> Notes:
    """The same text in another process, as each worker is one."""
    context.hash = context.problem.data_hash()
    allowed = "the same text for the same code and data in every process: training(..., data_hash=...)"
    if not isinstance(context.hash, str):
        yield "fault", f"data_hash gives {type(context.hash).__name__}", "text"
        return
    if kept_class(context.name) is not None:
        yield "ok", f"{context.hash}; the function is sent to workers by value", ""
        return
    try:
        found, _ = hashes_elsewhere(context.name, context.problem.arguments)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        yield "warning", f"not compared with another process: {message(error)}", ""
        return
    if found == context.hash:
        yield "ok", f"{found}, the same in another process", ""
    else:
        yield "fault", f"it differs between two processes: {context.hash} and {found}", allowed


def differences(context: FunctionContext, result: TrialResult, reports: list[EpochReport]) -> str:
    """Describe the first differences from the two epochs of `check_training`; empty if there is none."""
    if result.status is not TrialStatus.FINISHED:
        return f"it {result.status.value}: {shortened(result.error)}"
    return every(_differing(context, result, reports))


def _differing(context: FunctionContext, result: TrialResult, reports: list[EpochReport]) -> Iterator[str]:
    if _has_steps(result) and (step := _first_step(context.result, result)):
        yield f"the losses from step {step} on"
    for before, now in zip(context.reports, reports, strict=True):
        if found := _pairs(before.validation, now.validation):
            yield f"metrics after epoch {now.epoch} ({found})"
            return
    if found := _pairs(context.result.test, result.test):
        yield f"metrics on test ({found})"


def _pairs(before: Mapping[str, float], now: Mapping[str, float]) -> str:
    unlike = [task for task in before if before[task] != now[task]]
    return every(f"{task} {number(before[task])} and {number(now[task])}" for task in unlike)


def _has_steps(result: TrialResult) -> bool:
    return bool(result.trajectory)


def _first_step(before: TrialResult, now: TrialResult) -> int:
    """The first step, from 1, whose losses differ; 0 if none does."""
    one, other = before.trajectory["L"], now.trajectory.get("L", np.empty((0, 0)))
    if one.shape != other.shape:
        return min(len(one), len(other)) + 1
    rows = np.flatnonzero(~np.isclose(one, other, rtol=0, atol=0, equal_nan=True).all(axis=1))
    return int(rows[0]) + 1 if len(rows) else 0
