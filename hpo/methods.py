"""The methods a study can train with, by name. Needs torch alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from balancers import Balancer, Equal, Frozen, GradNorm, SingleTask, Static, Uncertainty
from balancers.shared_gradients import Shared

Factory = Callable[[Sequence[str], Shared, Mapping[str, Any]], Balancer]

RECIPES: dict[str, Callable[..., GradNorm]] = {"paper": GradNorm.paper, "robust": GradNorm.robust}


def _gradnorm(tasks: Sequence[str], shared: Shared, settings: Mapping[str, Any]) -> Balancer:
    rate = {"lr": settings["learning_rate"]} if "learning_rate" in settings else {}
    return RECIPES[settings["recipe"]](tasks, shared, settings["alpha"], **rate)


METHODS: dict[str, Factory] = {
    "static": lambda tasks, _, settings: Static(tasks, settings["weights"]),
    "equal": lambda tasks, _, __: Equal(tasks),
    "single_task": lambda tasks, _, settings: SingleTask(tasks, settings["task"]),
    "uncertainty": lambda tasks, _, __: Uncertainty(tasks),
    "frozen": lambda tasks, shared, settings: Frozen(tasks, settings["rule"], shared),
    "gradnorm": _gradnorm,
}


def build_balancer(method: str, settings: Mapping[str, Any], tasks: Sequence[str], shared: Shared) -> Balancer:
    """The balancer of a trial.

    Args:
        method: a key of `METHODS`.
        settings: what the method is told; its keys are the method's own.
        tasks: names, in the problem's order.
        shared: W.
    """
    return METHODS[method](tasks, shared, settings)
