"""The methods a study can train with, by name. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balancers import Balancer, Equal, Frozen, GradNorm, SingleTask, Static, Uncertainty
from balancers.shared_gradients import Shared
from balancers.torchjd_methods import NAMES as TORCHJD
from balancers.torchjd_methods import installed, torchjd_balancer

Factory = Callable[[Sequence[str], Shared, Mapping[str, Any]], Balancer]

# What a study's `recipes` may name. Each is told the tasks, W, alpha and, if it is searched, `lr`.
RECIPES: dict[str, Callable[..., GradNorm]] = {
    "paper": GradNorm.paper,
    "robust": GradNorm.robust,
    "annealed": GradNorm.annealed,
    "direct": GradNorm.direct,
}
WITHOUT_RATE = ("direct",)  # recipes whose weights have no learning rate to search
OVER_THE_RUN = ("annealed",)  # recipes that have to know how many steps a run has


def _gradnorm(tasks: Sequence[str], shared: Shared, settings: Mapping[str, Any]) -> Balancer:
    names = {"learning_rate": "lr", "steps": "decay_steps"}
    told = {parameter: settings[name] for name, parameter in names.items() if name in settings}
    return RECIPES[settings["recipe"]](tasks, shared, settings["alpha"], **told)


def _torchjd(name: str) -> Factory:
    return lambda tasks, _, settings: torchjd_balancer(name, tasks, **settings)


METHODS: dict[str, Factory] = {
    "static": lambda tasks, _, settings: Static(tasks, settings["weights"]),
    "equal": lambda tasks, _, __: Equal(tasks),
    "single_task": lambda tasks, _, settings: SingleTask(tasks, settings["task"]),
    "uncertainty": lambda tasks, _, __: Uncertainty(tasks),
    "frozen": lambda tasks, shared, settings: Frozen(tasks, settings["rule"], shared),
    "gradnorm": _gradnorm,
    **{name: _torchjd(name) for name in TORCHJD},
}

# What `references` in a study may name, next to one network a task
REFERENCES = ("equal", "uncertainty", *TORCHJD)


STACKABLE = tuple(name for name in METHODS if name not in TORCHJD)  # trials of which can be trained at once


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
    over_the_run = {"steps": steps} if settings.get("recipe") in OVER_THE_RUN else {}
    return METHODS[method](tasks, shared, {**settings, **over_the_run})
