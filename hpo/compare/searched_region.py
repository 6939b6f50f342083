"""The region of weights that a static search covered, its edge and its outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from hpo.compare.trial_table import Vector
from search_spaces.log_ratio import clr, ilr, ilr_inverse

HULL_TASKS = 3  # most tasks for a hull; with more, nearly all of a few dozen points are its corners
TOLERANCE = 1e-6


class SearchedRegion:
    """The convex hull of points in log-ratios; for more than three tasks the range of each task's log-ratio.

    Args:
        w: weights > 0 of the points, shape (n, T).
    """

    def __init__(self, w: Vector) -> None:
        self._normals, self._offsets = _half_spaces(w)

    def beyond(self, w: Vector) -> list[Vector]:
        """Return the outward directions, changes of log-ratios (T,), of the sides that a point is outside of."""
        return list(self._normals[self._heights(w) > TOLERANCE])

    def touched(self, w: Vector) -> list[Vector]:
        """Return the outward directions of the sides that all of several points, shape (n, T), lie on."""
        heights = np.stack([self._heights(point) for point in w])
        return list(self._normals[(np.abs(heights) <= TOLERANCE).all(axis=0)])

    def _heights(self, w: Vector) -> Vector:
        """Return the signed distance of a point to each side, below 0 inside; Aitchison distance for a hull."""
        return np.asarray(self._normals @ clr(w) - self._offsets)


def _half_spaces(w: Vector) -> tuple[Vector, Vector]:
    """Return normals (m, T) and offsets (m,): a point is inside if ``normals @ clr <= offsets``."""
    T = w.shape[1]
    if T == HULL_TASKS:
        try:
            equations = ConvexHull(ilr(w)).equations
        except QhullError:  # all points on a line, or too few
            return _ranges(w)
        corners = ilr_inverse(equations[:, :-1])
        return clr(corners), -equations[:, -1]
    return _ranges(w)


def _ranges(w: Vector) -> tuple[Vector, Vector]:
    shares, eye = clr(w), np.eye(w.shape[1])
    return np.vstack([eye, -eye]), np.concatenate([shares.max(axis=0), -shares.min(axis=0)])


def direction_words(direction: Vector, tasks: Sequence[str]) -> str:
    """Describe a direction: "more income, less age"."""
    centred = direction - direction.mean()
    large = 0.55 * np.abs(centred).max()  # one of three tasks against the two others names that one alone
    more = [f"more {task}" for task, change in zip(tasks, centred, strict=True) if change > large]
    less = [f"less {task}" for task, change in zip(tasks, centred, strict=True) if change < -large]
    return ", ".join(more + less)
