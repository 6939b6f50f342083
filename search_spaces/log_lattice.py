"""A regular grid of weightings: the same step in log-ratio everywhere, no direction twice."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from search_spaces.checks import Array, check_ratio, check_sizes
from search_spaces.log_ratio import clr_inverse

Vector = tuple[int, ...]


def log_lattice(tasks: int, points: int, seed: int = 0, *, ratio: float = 1000.0) -> Array:
    r"""Return the ``points`` weightings of a log-ratio lattice that are nearest to equal weights.

    With step s > 0 and integer vectors n, one for each weighting:

        w_i proportional to exp(s n_i),   Aitchison norm = s sqrt(sum_i n_i**2 - (sum_i n_i)**2 / T)

    n and n + (1, ..., 1) are the same weighting, so the lattice is the integer vectors modulo (1, ..., 1): the one
    that Conway & Sloane, *Sphere Packings, Lattices and Groups* (3rd ed. 1999), chapter 4, call A*_(T-1), equally
    spaced points for T = 2, triangles for T = 3. It covers space with fewer points than a cubic grid does (thinnest
    of all lattices up to dimension 5 = 6 tasks, ibid. chapter 2), and every ratio of two weights is a power of
    exp(s). A product grid over the w_i, by contrast, repeats each direction at many scales.

    Args:
        tasks: T.
        points: their number; the nearest come first.
        seed: shuffles points at the same distance, hence picks those of the outermost distance that still fit.
        ratio: the largest ratio of two weights among the points chosen; fixes s. The points spread over the whole
            range, so more points make a finer grid, not a wider one; many tasks and few points a coarse one.

    Returns:
        Weights, shape (points, T), > 0, each row with sum T; row 0 is equal weights.

    Raises:
        ValueError: tasks or points < 1; more than one point for one task; ratio not > 1.

    >>> log_lattice(tasks=2, points=3, ratio=9.0).round(3).tolist()[0]
    [1.0, 1.0]
    >>> sorted(log_lattice(tasks=2, points=3, ratio=9.0).round(3).tolist())
    [[0.2, 1.8], [1.0, 1.0], [1.8, 0.2]]
    """
    check_sizes(tasks, points, seed)
    check_ratio(ratio)
    vectors = np.array(_nearest(tasks, points, np.random.default_rng(seed)), dtype=np.float64)
    widest = max(vectors.max(), 1.0)  # the smallest entry of each vector is 0
    return clr_inverse(vectors * (math.log(ratio) / widest))


def _nearest(tasks: int, points: int, rng: np.random.Generator) -> list[Vector]:
    """Return the lattice vectors nearest to the origin, each as its representative with smallest entry 0.

    Shells of equal norm, from the inside out. Only neighbours n +- e_i are looked at, 2 T for each vector kept. None
    is missed: in a vector with n_i - mean(n) <= (1 - 1/T) / 2 in size for all i, entries differ by less than 1, so
    it is the origin; any other vector has an entry further out than that, and moving this entry by 1 towards the
    mean shortens it. So each vector has a neighbour in an inner shell, and is known before its own turn comes.
    """
    shells: defaultdict[int, set[Vector]] = defaultdict(set)
    shells[0].add((0,) * tasks)
    chosen: list[Vector] = []
    while True:
        squared_norm = min(shells)
        shell = sorted(shells.pop(squared_norm))
        order = rng.permutation(len(shell))[: points - len(chosen)]
        chosen += [shell[k] for k in order]
        if len(chosen) == points:
            return chosen
        for vector in shell:
            for neighbour in _neighbours(vector):
                further_out = _squared_norm(neighbour)
                if further_out > squared_norm:
                    shells[further_out].add(neighbour)


def _neighbours(vector: Vector) -> Iterator[Vector]:
    for i, entry in enumerate(vector):
        for moved in (entry + 1, entry - 1):
            neighbour = (*vector[:i], moved, *vector[i + 1 :])
            lowest = min(neighbour)
            yield tuple(n - lowest for n in neighbour) if lowest else neighbour


def _squared_norm(vector: Vector) -> int:
    """Return T times the squared length of n minus its mean: an integer, so that equal lengths compare equal."""
    return len(vector) * sum(n * n for n in vector) - sum(vector) ** 2
