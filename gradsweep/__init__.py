"""gradsweep: which loss weights should a multitask network train with, and was the grid search worth it?

The names that code outside gradsweep needs, imported when they are first used:

>>> import gradsweep
>>> gradsweep.Static(["near", "far"], {"near": 1.5, "far": 0.5}).weights.tolist()
[1.5, 0.5]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from balancers import (
        Balancer,
        BalancerWarning,
        Equal,
        Frozen,
        GradNorm,
        SingleTask,
        Stack,
        Static,
        StepRecord,
        Uncertainty,
    )
    from hpo import __version__
    from hpo.problems import Problem, ProblemError, Split, Task

_HOME = {
    "balancers": (
        "Balancer",
        "BalancerWarning",
        "Equal",
        "Frozen",
        "GradNorm",
        "SingleTask",
        "Stack",
        "Static",
        "StepRecord",
        "Uncertainty",
    ),
    "hpo": ("__version__",),
    "hpo.problems": ("Problem", "ProblemError", "Split", "Task"),
}
_MODULES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Balancer",
    "BalancerWarning",
    "Equal",
    "Frozen",
    "GradNorm",
    "Problem",
    "ProblemError",
    "SingleTask",
    "Split",
    "Stack",
    "Static",
    "StepRecord",
    "Task",
    "Uncertainty",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'gradsweep' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
