"""Problems that no other process can import, because they are defined in a notebook, script or function.

Their code travels from the driver to its own workers (`hpo.execution.problem_upload`). A study calls them
``module:Class@digest``, so that an edited class makes other trials; a training function likewise.
"""

from __future__ import annotations

import sys

from hpo.problems.code_digest import code_digest
from hpo.problems.training_function import ProblemKind, TrainingFunction

SCRIPT = "__main__"
_kept: dict[str, ProblemKind] = {}


def name_of(problem_class: ProblemKind) -> str:
    """Return the name of a class or function for a study: ``package.module:Class`` if other processes can import it.

    Any other is kept under its name with a digest of its code, where `load_problem` finds it.
    """
    name = f"{problem_class.__module__}:{problem_class.__qualname__}"
    if not _is_importable(problem_class):
        described = problem_class.function if isinstance(problem_class, TrainingFunction) else problem_class
        name = f"{name}@{code_digest(described)}"
        keep(name, problem_class)
    return name


def keep(name: str, problem_class: ProblemKind) -> None:
    """Make a class or function available to `load_problem` under this name in this process."""
    _kept[name] = problem_class


def kept_class(name: str) -> ProblemKind | None:
    """Return the class or function that is kept under this name."""
    return _kept.get(name)


def _is_importable(problem_class: ProblemKind) -> bool:
    """Return whether the module is not just this process's script, and has this problem under its name."""
    found: object = sys.modules.get(problem_class.__module__)
    if found is None or problem_class.__module__ == SCRIPT:
        return False
    for part in problem_class.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is problem_class
