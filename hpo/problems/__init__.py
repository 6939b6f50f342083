"""The interface that a user implements, the built-in problems, and the registry that finds them by name."""

from hpo.core.errors import ProblemError
from hpo.problems.base import Problem, Split, Task, to_device
from hpo.problems.registry import available, load_problem, target_of
from hpo.problems.training_function import training

__all__ = [
    "Problem",
    "ProblemError",
    "Split",
    "Task",
    "available",
    "load_problem",
    "target_of",
    "to_device",
    "training",
]
