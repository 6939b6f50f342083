"""The line of code that trains with an arm whose weights move."""

from __future__ import annotations

import math
from typing import NamedTuple

from hpo.compare import Winner
from hpo.training.methods import METHODS

SHARED = "shared is the last layer that all tasks share"
STEPS = "decay_steps is the number of optimizer steps of the whole run"


class Line(NamedTuple):
    """A call that makes a balancer.

    Attributes:
        module: the module to import.
        call: a call in it, in which ``tasks`` are the names of the tasks and ``shared`` is W.
        where: explanations of the names in the call.
    """

    module: str
    call: str
    where: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The complete expression."""
        return f"{self.module}.{self.call}"


def line_of(winner: Winner) -> Line | None:
    """Return the call that trains as an arm was trained; ``None`` for a method without one."""
    if winner.kind == "gradnorm":
        return _gradnorm(winner)
    method = METHODS.get(winner.kind)
    if method is None or not method.call:
        return None
    name, parenthesis, arguments = method.call.partition("(")
    module, _, function = name.rpartition(".")
    return Line(module, f"{function}{parenthesis}{arguments}")


def _gradnorm(winner: Winner) -> Line:
    settings = {"alpha": f"{winner.alpha:g}"}
    settings |= {"lr": f"{winner.learning_rate:g}"} if math.isfinite(winner.learning_rate) else {}
    settings |= {"decay_steps": f"{winner.steps}"} if winner.recipe == "annealed" else {}
    arguments = ", ".join(f"{name}={value}" for name, value in settings.items())
    where = (SHARED, STEPS) if "decay_steps" in settings else (SHARED,)
    return Line("balancers", f"GradNorm.{winner.recipe}(tasks, shared, {arguments})", where)
