"""The settings of GradNorm: their ranges, and the parametrisation that they select."""

from __future__ import annotations

from typing import Literal, get_args

from balancers.direct import Direct
from balancers.parametrizations import Linear, Log, Parametrization
from balancers.weights import fail

Name = Literal["linear", "log", "direct"]


def check_settings(
    alpha: float, smoothing: float, update_every: int, freeze_after: int | None, floor: float, accumulate: int
) -> None:
    """Refuse settings of `GradNorm` that are out of range."""
    if not 0 <= alpha < float("inf"):
        fail("alpha", "a number >= 0", alpha)
    if not 0 <= smoothing < 1:
        fail("smoothing", "a number in [0, 1)", smoothing)
    if update_every < 1:
        fail("update_every", "a number >= 1", update_every)
    if freeze_after is not None and freeze_after < 0:
        fail("freeze_after", "a number >= 0, or None", freeze_after)
    if not 0 < floor < 1:
        fail("floor", "a number in (0, 1)", floor)
    check_accumulate(accumulate)


def check_accumulate(passes: int) -> None:
    """Refuse a number of backward passes in a step below 1."""
    if passes < 1:
        fail("accumulate", "a number >= 1", passes)


def parametrization_of(
    name: str, tasks: int, lr: float, decay_steps: int | None, floor: float, smoothing: float
) -> Parametrization:
    """The parametrisation of this name."""
    if name not in get_args(Name):
        fail("parametrization", "'linear', 'log' or 'direct'", repr(name))
    if not lr > 0:
        fail("lr", "a number > 0", lr)
    if decay_steps is not None and decay_steps < 1:
        fail("decay_steps", "a number >= 1, or None", decay_steps)
    if name == "linear":
        return Linear(tasks, lr, decay_steps, floor)
    if name == "log":
        return Log(tasks, lr, decay_steps)
    if decay_steps is not None:
        fail("decay_steps", "None, since the parametrisation 'direct' has no learning rate", decay_steps)
    return Direct(tasks, smoothing)
