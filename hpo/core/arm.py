"""An arm of a study: all trials that differ only in their seed. Only this module builds and parses arm keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

SEARCHED = ("static", "equal")  # kinds of arm that are points of the static search
BALANCED = ("gradnorm", "gradnorm_static")  # kinds of arm that represent GradNorm
BASELINE = "baseline"  # the arm and kind of the weights that the user trains with today
REFINED = "refined"  # the kind of a point that the refinement has proposed
FIXED = (
    "static",
    "equal",
    BASELINE,
    "frozen",
    "gradnorm_static",
    REFINED,
)  # kinds of arm that a weights file can hold
KNOWN = "known_optimum"  # the arm and kind of the weights that are best by the problem's construction
FULL = "full"  # the kind of a static point of a shortened search that is also trained to the end
REFERENCE = "single_task"  # the kind of arm that defines the score and has no score itself
OUTSIDE = (REFERENCE, KNOWN, FULL)  # kinds of arm that are never selected and carry no information about other arms

_SHORT = {"learning_rate": "lr"}  # names of parameters in a key
_WITH = "@"  # before the problem's arguments, at the end of a key


@dataclass(frozen=True)
class Arm:
    """The parts of an arm; parts that its kind does not have are empty.

    Attributes:
        kind: ``static``, ``full``, ``refined``, ``baseline``, ``single_task``, ``frozen``, ``gradnorm``,
            ``gradnorm_static``, ``known_optimum``, or the name of a method.
        task: of ``single_task``.
        rule: of ``frozen``: ``loss`` or ``gradient``.
        number: of a static point, from 1; 0 for other kinds.
        recipe: of GradNorm.
        average: of ``gradnorm_static``: which E_t[w].
        parameters: of ``gradnorm``: ``alpha`` and, if it is searched, ``learning_rate``; of ``gradnorm_static`` those
            of its run, unless that is the best of a sweep.
        arguments: of the problem, where a tuned study trains the arm with others than the problem's own.

    >>> Arm("static", number=7).key
    'static/07'
    >>> Arm("gradnorm", recipe="robust", parameters={"alpha": 0.5, "learning_rate": 0.01}).key
    'gradnorm/robust/alpha=0.5,lr=0.01'
    >>> Arm("static", number=7, arguments="learning_rate=0.01").key
    'static/07@learning_rate=0.01'
    """

    kind: str
    task: str = ""
    rule: str = ""
    number: int = 0
    recipe: str = ""
    average: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
    arguments: str = ""

    @property
    def key(self) -> str:
        """The arm's name in study files, tables, MLflow and weights files."""
        told = ",".join(f"{_SHORT.get(name, name)}={value:g}" for name, value in self.parameters.items())
        number = f"{self.number:02d}" if self.number else ""
        parts = (self.kind, self.task, self.rule, number, self.recipe, self.average, told)
        return "/".join(part for part in parts if part) + (f"{_WITH}{self.arguments}" if self.arguments else "")

    @property
    def base(self) -> Self:
        """The arm with the problem's own arguments."""
        return replace(self, arguments="") if self.arguments else self

    @classmethod
    def parse(cls, key: str) -> Arm:
        """Parse an arm's key; a key of unknown form becomes the kind as a whole.

        >>> Arm.parse("gradnorm_static/robust/tail").average
        'tail'
        >>> Arm.parse("famo"), Arm.parse("a/b/c").kind
        (Arm(kind='famo', task='', rule='', number=0, recipe='', average='', parameters={}, arguments=''), 'a/b/c')
        """
        name, _, arguments = key.partition(_WITH)
        kind, *rest = name.split("/", 3)
        read = _PARTS.get((kind, len(rest)))
        try:
            return cls(kind, **read(*rest), arguments=arguments) if read else cls(name, arguments=arguments)
        except ValueError:  # not a number where a number is expected
            return cls(name, arguments=arguments)


def _parameters(text: str) -> dict[str, float]:
    """Parse ``alpha=0.5,lr=0.01`` into values by parameter name."""
    long = {short: name for name, short in _SHORT.items()}
    pairs = (part.partition("=") for part in text.split(","))
    return {long.get(name, name): float(value) for name, _, value in pairs}


_PARTS: dict[tuple[str, int], Any] = {  # (kind, parts after it) -> these as arguments of `Arm`
    ("static", 1): lambda number: {"number": int(number)},
    (REFINED, 1): lambda number: {"number": int(number)},
    (FULL, 1): lambda number: {"number": int(number)},
    (REFERENCE, 1): lambda task: {"task": task},
    ("frozen", 1): lambda rule: {"rule": rule},
    ("gradnorm", 2): lambda recipe, told: {"recipe": recipe, "parameters": _parameters(told)},
    ("gradnorm_static", 2): lambda recipe, average: {"recipe": recipe, "average": average},
    ("gradnorm_static", 3): lambda recipe, average, told: {
        "recipe": recipe,
        "average": average,
        "parameters": _parameters(told),
    },
}
