"""Checks of metrics and of short training runs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from balancers.torchjd_methods import POSITIVE
from hpo.check.context import SEED, CheckContext, Level, Notes
from hpo.check.loss_checks import ALLOWED
from hpo.check.network_checks import differing, state
from hpo.check.short_run import Limits, ShortRun, train_shortly
from hpo.check.user_tracebacks import place_in, told
from hpo.check.words import every, values
from hpo.core.number_format import duration, number
from hpo.core.text import listed, shortened
from hpo.core.trial import TrialConfig, TrialStatus
from hpo.core.user_calls import is_interrupt
from hpo.problems.base import Task
from hpo.training.stacked_network import NotStackable
from hpo.training.stacking_check import check_stackable

TRAINED_STEPS, FEWEST_STEPS = 200, 20  # of one task alone; with fewer nothing is said
TIMED_STEPS, WARM_STEPS = 100, 5
MOST_SECONDS = 5.0  # of any one run
MOST_TRAINING = 20.0  # of a run for each task, together
QUICK = 1.0  # seconds for val, above which nobody waits for train
NEAR = 0.1  # a metric nearer to 0 than this share of its own change is near 0
STILL = 0.05  # of all that a loss has fallen, in the last tenth of the steps
WORSE = 0.01  # a metric that changed by less than this share has not moved against its direction


BELOW = (
    "There GradNorm at alpha > 0 leaves the task out of the balance, and keeps its weight. A study trains without "
    f"{' and '.join(POSITIVE)}"
)


def check_evaluate(context: CheckContext) -> Notes:
    """A finite number for each task, the same each time, and the model stays as it is."""
    model = context.build()
    before = {name: value.clone() for name, value in state(model).items()}
    start = time.perf_counter()
    context.metrics = context.measure(model, "val")
    context.evaluation = time.perf_counter() - start
    after = state(model)
    changed = differing(before, {name: after[name] for name in before})  # a lazy layer has parameters only now
    for split, metrics in (("val", context.metrics), ("test", context.measure(model, "test"))):
        if metrics.keys() != set(context.tasks):
            found = f"evaluate(model, {split!r}) gives {every(metrics) or 'nothing'}"
            yield "fault", found, f"a metric for each of {every(context.tasks)}"
            return
        if bad := {task: value for task, value in metrics.items() if not math.isfinite(value)}:
            yield "fault", f"evaluate(model, {split!r}) gives {values(bad)}", "finite numbers"
            return
    if changed:
        yield "fault", f"evaluate() changes {every(changed)} of the model", "a model that stays as it is"
        return
    start = time.perf_counter()
    again = context.measure(model, "val")
    context.evaluation = min(context.evaluation, time.perf_counter() - start)  # the first may have imported much
    if moved := [
        task for task in context.tasks if not math.isclose(again[task], context.metrics[task], rel_tol=1e-5)
    ]:
        found = f"evaluate(model, 'val') called twice gives another metric of {every(moved)}"
        yield "warning", found, "the same each time: the whole split, no dropout, no random crops"
    else:
        yield "ok", f"{duration(context.evaluation)} for val; not trained: {values(context.metrics)}", ""
    if context.evaluation < QUICK:
        yield from _evaluate_train(context, model)


def _evaluate_train(context: CheckContext, model: nn.Module) -> Notes:
    """A trial goes on without it."""
    try:
        context.measure(model, "train")
    except BaseException as error:
        if is_interrupt(error):
            raise
        found = f"evaluate(model, 'train') raises: {told(error, context.folders)}"
        yield "warning", found, "its metrics, from which the report takes the gap of train and test"


def check_learning(context: CheckContext) -> Notes:
    """Each task, trained alone, learns, and its metric goes where its direction says."""
    limits = Limits(context.at_most(TRAINED_STEPS), min(MOST_SECONDS, MOST_TRAINING / len(context.tasks)))
    good: dict[str, str] = {}
    for task in context.problem.tasks:
        run = train_shortly(
            context.problem, "single_task", {"task": task.name}, context.device, limits, evaluate=True
        )
        if run.result.status is TrialStatus.FAILED:
            yield _failed(context, run)
            return
        context.curves[task.name] = run.result.trajectory["L"][:, context.tasks.index(task.name)].tolist()
        note = _judge(context, task, run)
        if note[0] == "ok":
            good[task.name] = note[1]
        else:
            yield note
    if good:
        yield "ok", f"each trained alone: {listed(f'{task} {text}' for task, text in good.items())}", ""
    if falls := [task for task, losses in context.curves.items() if losses[0] > 0 > min(losses)]:
        yield "warning", f"trained alone, the loss of {every(falls)} falls below 0. {BELOW}", ALLOWED


def check_epochs(context: CheckContext) -> Notes:
    """Check that a trial is long enough, if the runs of one task alone were as long as a trial."""
    epochs, tried = context.problem.epochs, min(map(len, context.curves.values()), default=0)
    if not context.steps:
        yield "ok", f"a trial has {epochs} epochs, of an unknown number of steps", ""
        return
    whole = context.steps * epochs
    told = f"a trial has {epochs} epochs, {whole:,} steps"
    if whole < FEWEST_STEPS:
        yield "warning", told, f"{FEWEST_STEPS} steps or more, for weights to matter"
    elif tried < whole:
        yield "ok", f"{told}; {tried:,} were tried, too few to say whether that is enough", ""
    elif falling := [task for task, losses in context.curves.items() if _still_falls(losses[:whole])]:
        yield "warning", f"{told}, at the end of which the loss of {every(falling)} still falls", "more epochs"
    else:
        yield "ok", f"{told}, at the end of which no loss of a task trained alone falls much", ""


def _still_falls(losses: Sequence[float]) -> bool:
    """Return whether the last tenth is clearly below the tenth before it, relative to the whole fall of the loss."""
    tenth = max(1, len(losses) // 10)
    first, before, last = (
        statistics.fmean(part) for part in (losses[:tenth], losses[-2 * tenth : -tenth], losses[-tenth:])
    )
    return before - last > STILL * (first - last) > 0


def _judge(context: CheckContext, task: Task, run: ShortRun) -> tuple[Level, str, str]:
    """Check that its loss falls, and compare with the change of its metric."""
    result = run.result
    if result.status is TrialStatus.DIVERGED:
        return "warning", f"{task.name} trained alone: {shortened(result.error)}", "a smaller learning rate, perhaps"
    if result.steps < FEWEST_STEPS:
        return "ok", f"{result.steps} steps, which say nothing", ""
    losses, tenth = result.trajectory["L"][:, context.tasks.index(task.name)], result.steps // 10
    first, last = float(losses[:tenth].mean()), float(losses[-tenth:].mean())
    before, after = context.metrics[task.name], result.validation[task.name]
    way = f"from {number(before)} to {number(after)}"
    alone = (
        f"{task.name} trained alone for {result.steps} steps: its loss went from {number(first)} to {number(last)}"
    )
    if last >= first:
        return "warning", alone, "a loss that training lowers"
    if after == before:
        return "warning", f"{alone}, yet {task.metric} stayed at {number(after)}", "a metric of the model it is given"
    worse = (after - before) * (1 if task.direction == "minimize" else -1)
    if worse > WORSE * abs(before):
        other = "maximize" if task.direction == "minimize" else "minimize"
        return (
            "warning",
            f"{alone}, yet {task.metric} went {way}",
            f"a metric to {task.direction}; should it be {other}?",
        )
    note = ""
    if task.direction == "maximize" and task.change == "relative" and abs(after) < NEAR * abs(after - before):
        note = (
            " (near 0; the score divides by what a trial of this task alone ends with, and is large if that is so: "
            'set change="absolute", or a number as its scale, in the Task)'
        )
    return "ok", f"{task.metric} {way} in {result.steps} steps{note}", ""


def _failed(context: CheckContext, run: ShortRun) -> tuple[Level, str, str]:
    """`run_trial` tells one line, then the traceback."""
    where, line = place_in(run.result.error, context.folders), shortened(run.result.error.partition("\n\n")[0])
    return "fault", f"{where}: {line}" if where else line, ""


def check_time(context: CheckContext) -> Notes:
    """Measure the time of a step, an epoch and a trial."""
    medians = []
    limits = Limits(context.at_most(TIMED_STEPS), MOST_SECONDS)
    methods: list[tuple[str, dict[str, Any]]] = [("equal", {}), ("gradnorm", context.gradnorm)]
    for method, settings in methods:
        run = train_shortly(context.problem, method, settings, context.device, limits)
        if run.result.status is TrialStatus.FAILED:
            yield _failed(context, run)
            return
        medians.append(statistics.median(run.seconds[WARM_STEPS:] or run.seconds or [math.nan]))
    static, gradnorm = medians
    found = f"a step {duration(static)}, {duration(gradnorm)} with GradNorm, on {_place(context.device)}"
    if context.steps:
        epoch, epochs = context.steps * gradnorm + context.evaluation, context.problem.epochs
        found += f"; an epoch about {duration(epoch)}, a trial of {epochs} about {duration(epochs * epoch)}"
    yield "ok", found, ""


def check_cohort(context: CheckContext) -> Notes:
    """Check that trials can be trained at once; a study measures how many are worth it."""
    methods: list[tuple[str, dict[str, Any]]] = [("equal", {}), ("gradnorm", context.gradnorm)]
    configs = [TrialConfig("", {}, "", *method, SEED, context.problem.epochs) for method in methods]
    try:
        check_stackable(context.load(), configs, context.device)
    except NotStackable as reason:
        yield "ok", shortened(f"trials are trained one at a time, since {reason}"), ""
    else:
        yield "ok", "trials can be trained at once: losses, gradients and steps are the same", ""


def _place(device: torch.device) -> str:
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}"
