"""Weightings that fill the space of log-ratios evenly, for any number of points."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import qmc

from search_spaces.checks import Array, check_ratio, check_sizes
from search_spaces.log_ratio import clr_inverse


def sobol(tasks: int, points: int, seed: int = 0, *, ratio: float = 1000.0) -> Array:
    r"""Draw a scrambled Sobol sequence, uniform over all weightings with ratios of two weights up to ``ratio``.

    In log-ratio coordinates (`ilr`), these weightings are the polytope

        P = { w : max_ij ln(w_i / w_j) <= ln(ratio) }

    A box in these coordinates fits P badly: inside it, a box leaves out most weightings; around it, nearly all points
    of many tasks would have to be thrown away. But P falls into T parts, by which weight k is the smallest, and in
    part k the T - 1 numbers ln(w_i / w_k) are a box [0, ln(ratio)]**(T - 1) exactly, all parts of the same volume
    (they are permutations of one another). So the unit cube of T - 1 dimensions is cut into T slices along its first
    axis, and slice k is stretched over part k:

        k = floor(T u_1),   ln(w_i / w_k) = ln(ratio) v_i,   v = (T u_1 - k, u_2, ..., u_(T-1)) for i other than k

    The map is linear on each slice with one volume factor, so that points uniform in the cube are uniform in P, and
    no task is favoured. More points of the same seed begin with the same points.

    Source: Sobol 1967, https://doi.org/10.1016/0041-5553(67)90144-9; scrambling as in `scipy.stats.qmc.Sobol`.

    Args:
        tasks: T.
        points: their number; powers of 2 fill the space most evenly.
        seed: of the scrambling.
        ratio: the bound on the ratio of two weights, > 1.

    Returns:
        Weights, shape (points, T), > 0, each row with sum T.

    Raises:
        ValueError: tasks or points < 1; more than one point for one task; ratio not > 1.

    >>> sobol(tasks=3, points=8, ratio=100.0).shape
    (8, 3)
    """
    check_sizes(tasks, points, seed)
    check_ratio(ratio)
    if tasks == 1:
        return np.ones((1, 1))
    sequence = qmc.Sobol(tasks - 1, scramble=True, rng=np.random.default_rng(seed))
    u = sequence.random_base2(math.ceil(math.log2(points)))[:points]  # a whole power of 2: no warning, same points
    smallest = np.floor(u[:, 0] * tasks).astype(np.intp)
    v = np.column_stack([u[:, 0] * tasks - smallest, u[:, 1:]])
    others = np.arange(tasks) != smallest[:, None]
    logarithms = np.zeros((points, tasks))
    logarithms[others] = math.log(ratio) * v.ravel()
    return clr_inverse(logarithms)
