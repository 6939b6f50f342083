"""`hpo.problems` under the name that it had in version 0.1, so that problems written for it still load."""

import warnings

from hpo.problems import Problem, ProblemError, Split, Task, to_device

__all__ = ["Problem", "ProblemError", "Split", "Task", "to_device"]

warnings.warn("hpo.problem is now hpo.problems: from hpo.problems import Problem, Task", FutureWarning, stacklevel=2)
