"""Random weightings from the Dirichlet distribution."""

from __future__ import annotations

import numpy as np

from search_spaces.checks import Array, check_number, check_sizes, fail
from search_spaces.log_ratio import close

SMALLEST = float(np.finfo(np.float32).tiny)
"""A weight below this (1.2e-38) is no normal number in the float32 that networks train in."""

MOST_DRAWS = 1000
"""Draws for each point asked for, before we say that these weights cannot be had."""


def dirichlet(tasks: int, points: int, seed: int = 0, *, concentration: float = 1.0) -> Array:
    """Draw ``w = T x``, x from the symmetric Dirichlet distribution, density proportional to ``prod_i x_i**(a - 1)``.

    Concentration a = 1 is the uniform distribution on the simplex of weights; a > 1 gathers points around equal
    weights, a < 1 pushes them to the corners, where one task has it all. Rows with a weight below 1.2e-38, the
    smallest normal float32, are drawn again, so that w > 0 holds in training too. More points of the same seed begin
    with the same points.

    Source: Kotz, Balakrishnan, Johnson, *Continuous Multivariate Distributions*, vol. 1 (2nd ed. 2000), chapter 49.

    Args:
        tasks: T.
        points: their number.
        seed: of the random numbers.
        concentration: a > 0.

    Returns:
        Weights, shape (points, T), > 0, each row with sum T.

    Raises:
        ValueError: tasks or points < 1; more than one point for one task; a concentration that is not > 0, or so
            small that nearly every draw has a weight of 0.

    >>> dirichlet(tasks=3, points=5).shape
    (5, 3)
    """
    check_sizes(tasks, points, seed)
    check_number("concentration", concentration)
    if concentration <= 0.0:
        fail("concentration", "a number > 0", concentration)
    rng = np.random.default_rng(seed)
    kept = np.empty((0, tasks))
    draws = 0
    while len(kept) < points:
        if draws == MOST_DRAWS:
            rule = f"a number large enough that {tasks} random weights stay above {SMALLEST:.1e}"
            fail("concentration", rule, concentration)
        drawn = rng.dirichlet(np.full(tasks, concentration), size=points)
        kept = np.concatenate([kept, drawn[(drawn >= SMALLEST).all(axis=1)]])
        draws += 1
    return close(kept[:points])
