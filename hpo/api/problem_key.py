"""The problem key of a study from Python: a class, a training function or a name."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

from hpo.core.errors import StudyError
from hpo.core.text import complaint
from hpo.problems.base import Problem
from hpo.problems.by_value import name_of
from hpo.problems.training_function import ProblemKind, TrainingFunction

ProblemLike = str | ProblemKind | Mapping[str, Any]


def named(problem: Any) -> Any:
    """Return a problem as a study file names it; other values are left to the validation of studies."""
    if isinstance(problem, Mapping):
        return {**problem, "name": named(problem["name"])} if "name" in problem else dict(problem)
    if isinstance(problem, Problem):
        name = type(problem).__name__
        raise StudyError(
            f"problem: expected the class {name}, or {{'name': {name}, argument: value}}, got an object of {name}"
        )
    if isinstance(problem, FunctionType):
        rule = f"{problem.__name__} below @gradsweep.training(tasks=[...])"
        raise StudyError(complaint("problem", rule, f"the function {problem.__name__} alone"))
    return name_of(problem) if isinstance(problem, type | TrainingFunction) else problem
