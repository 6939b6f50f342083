"""The methods a study can train with, by name. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balancers import Balancer, Equal, Frozen, GradNorm, SingleTask, Static, Uncertainty
from balancers.shared_gradients import Shared
from balancers.torchjd_methods import NAMES as TORCHJD
from balancers.torchjd_methods import installed, torchjd_balancer

Factory = Callable[[Sequence[str], Shared, Mapping[str, Any], int], Balancer]

# What a study's `recipes` may name. Each is told the tasks, W, alpha and, if it is searched, `lr`.
RECIPES: dict[str, Callable[..., GradNorm]] = {
    "paper": GradNorm.paper,
    "robust": GradNorm.robust,
    "annealed": GradNorm.annealed,
    "direct": GradNorm.direct,
}
WITHOUT_RATE = ("direct",)  # recipes whose weights have no learning rate to search
OVER_THE_RUN = ("annealed",)  # recipes that have to know how many steps a run has


def _gradnorm(tasks: Sequence[str], shared: Shared, settings: Mapping[str, Any], steps: int) -> Balancer:
    told: dict[str, Any] = {"lr": settings["learning_rate"]} if "learning_rate" in settings else {}
    if settings["recipe"] in OVER_THE_RUN:
        told["decay_steps"] = steps
    return RECIPES[settings["recipe"]](tasks, shared, settings["alpha"], **told)


def _torchjd(name: str) -> Factory:
    return lambda tasks, _, settings, __: torchjd_balancer(name, tasks, **settings)


METHODS: dict[str, Factory] = {
    "static": lambda tasks, _, settings, __: Static(tasks, settings["weights"]),
    "equal": lambda tasks, _, __, ___: Equal(tasks),
    "single_task": lambda tasks, _, settings, __: SingleTask(tasks, settings["task"]),
    "uncertainty": lambda tasks, _, __, ___: Uncertainty(tasks),
    "frozen": lambda tasks, shared, settings, _: Frozen(tasks, settings["rule"], shared),
    "gradnorm": _gradnorm,
    **{name: _torchjd(name) for name in TORCHJD},
}

# What `references` in a study may name, next to one network a task
REFERENCES = ("equal", "uncertainty", *TORCHJD)


def missing_for(method: str) -> str:
    """What to install before a method can run; nothing if all is there."""
    return "pip install 'gradsweep[torchjd]'" if method in TORCHJD and not installed() else ""


def build_balancer(
    method: str, settings: Mapping[str, Any], tasks: Sequence[str], shared: Shared, steps: int
) -> Balancer:
    """The balancer of a trial.

    Args:
        method: a key of `METHODS`.
        settings: what the method is told; its keys are the method's own.
        tasks: names, in the problem's order.
        shared: W.
        steps: optimizer steps of the run; only the recipes `OVER_THE_RUN` read it.
    """
    return METHODS[method](tasks, shared, settings, steps)
