"""The region of weights that a static search covered, and what lies on its edge or outside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from hpo.compare.trial_table import Vector
from search_spaces.log_ratio import clr, ilr, ilr_inverse

HULL_TASKS = 3  # up to so many tasks; with more, nearly every one of some dozen points is a corner of the hull
TOLERANCE = 1e-6


class SearchedRegion:
    """The convex hull of points in log-ratios; for more than three tasks the range of each task's log-ratio.

    Args:
        w: weights > 0 of the points, shape (n, T).
    """

    def __init__(self, w: Vector) -> None:
        self._normals, self._offsets = _half_spaces(w)

    def beyond(self, w: Vector) -> list[Vector]:
        """Outward directions, each a change of log-ratios of shape (T,), of the sides that a point is outside of."""
        return list(self._normals[self._heights(w) > TOLERANCE])

    def touched(self, w: Vector) -> list[Vector]:
        """The same of the sides that all of some points, shape (n, T), lie on."""
        heights = np.stack([self._heights(point) for point in w])
        return list(self._normals[(np.abs(heights) <= TOLERANCE).all(axis=0)])

    def _heights(self, w: Vector) -> Vector:
        """How far a point is above each side, below 0 inside; in Aitchison distance for a hull."""
        return np.asarray(self._normals @ clr(w) - self._offsets)


def _half_spaces(w: Vector) -> tuple[Vector, Vector]:
    """Normals (m, T) and offsets (m,): a point is inside where ``normals @ clr <= offsets``."""
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
    """A direction as a person says it: "more income, less age"."""
    centred = direction - direction.mean()
    large = 0.55 * np.abs(centred).max()  # of one of three tasks against the two others: that one alone
    more = [f"more {task}" for task, change in zip(tasks, centred, strict=True) if change > large]
    less = [f"less {task}" for task, change in zip(tasks, centred, strict=True) if change < -large]
    return ", ".join(more + less)
