"""Checks of the losses of the first batches."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

from torch import Tensor

from balancers.shared_search import is_present
from balancers.task_reach import leaves_below
from balancers.torchjd_methods import POSITIVE
from hpo.check.context import CheckContext, Notes
from hpo.check.words import apart, every, values
from hpo.core.number_format import number
from hpo.core.text import listed
from hpo.problems.base import to_device

BATCHES = 8  # that are looked at
LEFT_OUT = (
    "A study trains without the arms that need first losses above 0: GradNorm at alpha > 0, first-step weights 1/L, "
    f"{' and '.join(POSITIVE)}. All other arms train as usual, GradNorm at alpha 0 among them, which reads no loss"
)
ALLOWED = "that, or a constant added to the loss, which changes no gradient, so that it stays above 0"
MOST_SECONDS = 5.0


def check_losses(context: CheckContext) -> Notes:
    """One scalar for each task, as every balancer takes it; a task may be absent from some batches."""
    context.model.train()
    context.losses, absent, count, end = {}, dict.fromkeys(context.tasks, 0), 0, time.monotonic() + MOST_SECONDS
    for batch in islice(context.order().epoch(), BATCHES):
        moved = to_device(batch, context.device)
        losses: Any = context.losses_of(context.model, moved)
        if faults := [*_faults_of(context, losses)]:
            yield from (("fault", f"{found}{_place(count)}", allowed) for _, found, allowed in faults)
            return
        found = {task: losses[task] for task in context.tasks if is_present(losses.get(task))}
        if not count or len(found) > len(context.losses):
            context.batch = moved  # with which a step of GradNorm is tried
        context.losses = found | context.losses  # of each task the first that there is
        absent = {task: times + (task not in found) for task, times in absent.items()}
        count += 1
        if time.monotonic() > end:
            break
    context.losses = {task: context.losses[task] for task in context.tasks if task in context.losses}
    yield from _told(context, absent, count)


def _told(context: CheckContext, absent: Mapping[str, int], count: int) -> Notes:
    batches = f"{count} batch{'es' if count > 1 else ''}"
    if never := [task for task, times in absent.items() if times == count]:
        found = f"no loss of {every(never)} in the first {batches}: each is missing, None, 0 or NaN"
        yield "fault", found, "a loss of each task in some of the first batches"
        return
    numbers = {task: float(loss.detach()) for task, loss in context.losses.items()}
    some = listed(f"{task} from {times}" for task, times in absent.items() if times)
    note = f"; of {batches} absent: {some}" if some else f"; {batches} looked at"
    yield "ok", f"{'the first' if some else 'of the first batch'}: {values(numbers)}{apart(numbers)}{note}", ""
    if negative := [task for task, value in numbers.items() if value < 0]:
        context.alpha = 0.0
        yield "warning", f"the first loss of {every(negative)} is below 0. {LEFT_OUT}", ALLOWED
    leaves = {task: leaves_below(loss) for task, loss in context.losses.items()}
    context.reached = {task: {id(leaf) for leaf in found} for task, found in leaves.items()}


def _place(number_of_batch: int) -> str:
    return f" in batch {number_of_batch + 1}" if number_of_batch else ""


def _is_empty(loss: Tensor | float) -> bool:
    """Return whether a loss is one of a batch without examples of its task."""
    value = float(loss.detach() if isinstance(loss, Tensor) else loss)
    return value == 0 or math.isnan(value)


def _faults_of(context: CheckContext, losses: Any) -> Notes:
    """The faults for which a balancer would refuse a loss."""
    if not isinstance(losses, Mapping):
        yield "fault", f"losses() gives {type(losses).__name__}", "a mapping from each task to its loss"
    elif not losses.keys() <= set(context.tasks):
        yield "fault", f"losses() has {listed(map(str, losses))}", f"only {every(context.tasks)}"
    else:
        for task, loss in losses.items():
            if loss is not None:
                yield from _faults_of_one(task, loss)


def _faults_of_one(task: str, loss: Any) -> Notes:
    is_number = isinstance(loss, int | float)
    if not isinstance(loss, Tensor) and not is_number:
        yield "fault", f"the loss of {task} is a {type(loss).__name__}", "a scalar tensor"
    elif isinstance(loss, Tensor) and loss.numel() != 1:
        yield "fault", f"the loss of {task} has the shape {tuple(loss.shape)}", "a scalar tensor"
    elif _is_empty(loss):
        return  # absent
    elif is_number:
        yield "fault", f"the loss of {task} is a {type(loss).__name__}", "a scalar tensor"
    elif not loss.requires_grad:
        yield "fault", f"the loss of {task} has no graph", "a tensor computed from the model's parameters"
    elif not math.isfinite(float(loss.detach())):
        yield "fault", f"the loss of {task} is {number(float(loss.detach()))}", "a finite number"
