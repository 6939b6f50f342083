"""The weightings that a study tries: a design by name, or the user's own list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import signature

import numpy as np

from search_spaces.checks import Array, check_integer, check_sizes, checked_weights, fail
from search_spaces.dirichlet import dirichlet
from search_spaces.log_lattice import log_lattice
from search_spaces.log_ratio import close, clr
from search_spaces.sobol import sobol
from search_spaces.uniform import uniform


@dataclass(frozen=True)
class Design:
    """A design of the static search.

    Attributes:
        draw: ``(tasks, points, seed, **options)`` to weights of shape (points, T).
        random: whether its points are drawn from a distribution, so that a share of them has a confidence interval.
        centered: whether it has a ``ratio`` and its points lie around equal weights, so that a study may move them
            around others (`region`).
    """

    draw: Callable[..., Array]
    random: bool
    centered: bool = False

    @property
    def options(self) -> list[str]:
        """The options of `draw` besides the numbers of tasks and points and the seed."""
        return list(signature(self.draw).parameters)[3:]


DESIGNS = {
    "log_lattice": Design(log_lattice, random=False, centered=True),
    "dirichlet": Design(dirichlet, random=True),
    "sobol": Design(sobol, random=True, centered=True),
    "uniform": Design(uniform, random=True),
}
"""Every design, by the name that a study file says."""

MOST_REPEATS = 16
"""How many times the points asked for a design may draw before we say that it has no more directions."""

DECIMALS = 9
"""Weightings whose centred log-ratios agree to this many decimals are the same direction."""


def points(
    design: str,
    tasks: int,
    points: int,
    seed: int = 0,
    *,
    center: Sequence[float] | None = None,
    **options: float,
) -> Array:
    """Return the weightings to try: equal weights, then the first distinct ones of a design.

    Args:
        design: a name in `DESIGNS`.
        tasks: T.
        points: their total number, including equal weights.
        seed: of the design.
        center: weights that take the place of equal ones in the design: each of its points is multiplied by them.
        options: of the design, such as ``ratio`` or ``concentration``.

    Returns:
        Weights, shape (points, T), > 0, each row with sum T; row 0 is equal weights; no direction comes twice (no two
        rows with the same log-ratios to 9 decimals).

    Raises:
        ValueError: an unknown design or option; tasks or points < 1; more points than the design has directions (one
            task has only one).

    >>> points("log_lattice", tasks=3, points=7, ratio=4.0)[0]
    array([1., 1., 1.])
    >>> points("log_lattice", tasks=2, points=2, center=[3.0, 1.0])
    array([[1. , 1. ],
           [1.5, 0.5]])
    """
    if design not in DESIGNS:
        fail("design", f"one of {sorted(DESIGNS)}", design)
    check_sizes(tasks, points, seed)
    allowed = DESIGNS[design].options
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        rule = f"options among {allowed}" if allowed else "no options"
        fail("options", f"{rule} for the design {design!r}", unknown)
    equal = np.ones((1, tasks))
    found = np.empty((0, tasks))
    drawn = points
    while len(found) < points:
        if drawn > MOST_REPEATS * points:
            rule = f"at most {len(found)}, all directions of the design {design!r} with these options"
            fail("points", rule, points)
        rows = DESIGNS[design].draw(tasks, drawn, seed, **options)
        moved = rows if center is None else close(rows * checked_weights("center", center))
        found = _distinct(np.concatenate([equal, moved]))
        drawn *= 2
    return found[:points]


def explicit(rows: Iterable[Sequence[float]], tasks: int) -> Array:
    """Check the user's own list of weightings and return it with equal weights first, each direction once.

    Args:
        rows: weightings, each of T weights > 0 on any scale.
        tasks: T.

    Returns:
        Weights, shape (points, T), > 0, each row with sum T: equal weights, then the given ones in their order.

    Raises:
        ValueError: tasks < 1; a row that is not T finite numbers > 0; ratios beyond float64.

    >>> explicit([[3, 1], [30, 10], [1, 3]], tasks=2)
    array([[1. , 1. ],
           [1.5, 0.5],
           [0.5, 1.5]])
    """
    check_integer("tasks", tasks, 1)
    checked = [np.ones(tasks)]
    for k, row in enumerate(rows):
        weights = checked_weights(f"rows[{k}]", row)
        if weights.shape != (tasks,):
            fail(f"rows[{k}]", f"{tasks} weights, one for each task", weights.tolist())
        checked.append(weights)
    return _distinct(close(np.stack(checked)))


def _distinct(rows: Array) -> Array:
    """Return the first weighting of each direction, in order."""
    directions = np.round(clr(rows), DECIMALS) + 0.0  # no negative zeros
    _, first = np.unique(directions, axis=0, return_index=True)
    return rows[np.sort(first)]
