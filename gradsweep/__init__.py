"""gradsweep: which loss weights should a multitask network train with, and was the grid search worth it?

The names that code outside gradsweep needs, imported when they are first used:

>>> import gradsweep
>>> gradsweep.Static(["near", "far"], {"near": 1.5, "far": 0.5}).weights.tolist()
[1.5, 0.5]
"""

from __future__ import annotations

import warnings
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
        find_shared_layer,
    )
    from hpo import __version__
    from hpo.api import Result, Study, Trial, check, find_weights, try_training
    from hpo.problems import Problem, ProblemError, Split, Task, training

# All names but these are those of `balancers`.
_ELSEWHERE = (
    dict.fromkeys(("Problem", "ProblemError", "Split", "Task", "training"), "hpo.problems")
    | dict.fromkeys(("Result", "Study", "Trial", "check", "find_weights", "try_training"), "hpo.api")
    | {"__version__": "hpo"}
)

__all__ = [
    "Balancer",
    "BalancerWarning",
    "Equal",
    "Frozen",
    "GradNorm",
    "Problem",
    "ProblemError",
    "Result",
    "SingleTask",
    "Split",
    "Stack",
    "Static",
    "StepRecord",
    "Study",
    "Task",
    "Trial",
    "Uncertainty",
    "__version__",
    "check",
    "find_shared_layer",
    "find_weights",
    "training",
    "try_training",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'gradsweep' has no attribute {name!r}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # of tqdm, whose bars nothing here shows
        return getattr(import_module(_ELSEWHERE.get(name, "balancers")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
