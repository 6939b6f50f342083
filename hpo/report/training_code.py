"""The line of code that trains with an arm whose weights move, for people to copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from balancers.torchjd_methods import NAMES as TORCHJD
from hpo.compare import Winner

SHARED = "shared is the last layer that all tasks share"
STEPS = "decay_steps is the number of optimizer steps of the whole run"


class Line(NamedTuple):
    """A call that makes a balancer.

    Attributes:
        module: what to import.
        call: what to call in it, in which ``tasks`` are the names of the tasks and ``shared`` is W.
        where: what the words in it mean, where they do not say so themselves.
    """

    module: str
    call: str
    where: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole expression."""
        return f"{self.module}.{self.call}"


def line_of(winner: Winner) -> Line | None:
    """How to train as an arm was trained; ``None`` for a method that has no line here."""
    write = CALLS.get(winner.kind)
    return write(winner) if write else None


def _gradnorm(winner: Winner) -> Line:
    settings = {"alpha": f"{winner.alpha:g}"}
    settings |= {"lr": f"{winner.learning_rate:g}"} if math.isfinite(winner.learning_rate) else {}
    settings |= {"decay_steps": f"{winner.steps}"} if winner.recipe == "annealed" else {}
    told = ", ".join(f"{name}={value}" for name, value in settings.items())
    where = (SHARED, STEPS) if "decay_steps" in settings else (SHARED,)
    return Line("balancers", f"GradNorm.{winner.recipe}(tasks, shared, {told})", where)


def _torchjd(winner: Winner) -> Line:
    return Line("balancers.torchjd_methods", f'torchjd_balancer("{winner.kind}", tasks)')


# By kind of arm, for all whose weights move: the same balancers that `hpo.training.methods.METHODS` builds.
CALLS: dict[str, Callable[[Winner], Line]] = {
    "gradnorm": _gradnorm,
    "uncertainty": lambda _: Line("balancers", "Uncertainty(tasks)"),
    **dict.fromkeys(TORCHJD, _torchjd),
}
