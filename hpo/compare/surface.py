"""The response surface: a quadratic of the score over the weights' log-ratios, and its lowest point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from hpo.compare.trial_table import Vector, static_points, weight_columns
from search_spaces.log_ratio import ilr, ilr_inverse

IDENTIFIED = 0.5  # least leave-one-out R^2 of a surface that is used
RESAMPLES = 1000


@dataclass(frozen=True)
class Surface:
    """A fitted surface, or the reason why there is none.

    Attributes:
        identified: true if it predicts points left out of the fit: leave-one-out R^2 of at least 0.5.
        located: true if, in addition, its lowest point is inside the searched region, in 95 of 100 resamples too.
        reason: the reason why it is not identified or not located; empty if it is both.
        r2: leave-one-out R^2; NaN if there are too few points.
        coefficients: shape (1 + d + d (d + 1) / 2,) with d = T - 1: constant, linear, upper triangle of squares.
        limit: points with a higher score were left out (see `fit_surface`).
        optimum: weights at the lowest point, shape (T,); empty if not located.
        score: the surface there.
        optima: weights at the lowest point in every resample that has one, shape (n, T).
        degrees: degrees of freedom of the residuals.
    """

    identified: bool
    located: bool
    reason: str
    r2: float = float("nan")
    coefficients: Vector = field(default_factory=lambda: np.empty(0))
    limit: float = float("nan")
    optimum: Vector = field(default_factory=lambda: np.empty(0))
    score: float = float("nan")
    optima: Vector = field(default_factory=lambda: np.empty((0, 0)))
    degrees: int = 0

    def predict(self, w: ArrayLike) -> Vector:
        """Evaluate the surface at weights of shape (..., T) > 0."""
        return np.asarray(_terms(ilr(w)) @ self.coefficients)

    @cached_property
    def _spread(self) -> tuple[Vector, Vector, float]:
        """Return centre, inverse covariance, and the squared distance that contains 95% of the resampled optima.

        The distance is widened by the ratio of an F quantile to a chi-squared one, because there are few residuals.
        """
        z = ilr(self.optima)
        centre = ilr(self.optimum)
        inverse = np.linalg.pinv(np.atleast_2d(np.cov(z.T)))
        d = len(centre)
        few = d * float(stats.f.ppf(0.95, d, self.degrees) / stats.chi2.ppf(0.95, d))
        return centre, inverse, few * float(np.quantile(_mahalanobis(z, centre, inverse), 0.95))

    def holds(self, w: ArrayLike) -> np.ndarray:
        """Return true for weights (..., T) in the optimum's 95% region, an ellipsoid of the resampled optima."""
        centre, inverse, limit = self._spread
        return np.asarray(_mahalanobis(ilr(w), centre, inverse) <= limit)

    def region(self) -> Vector:
        """Return the resampled optima inside the 95% region, shape (n, T)."""
        inside: Vector = self.optima[self.holds(self.optima)]
        return inside


def fit_surface(search: pd.DataFrame, tasks: Sequence[str]) -> Surface:
    """Fit ``score = c + b'z + z'A z`` by least squares on isometric log-ratios z of the static points' weights.

    Second-order response surface: Box and Wilson, "On the Experimental Attainment of Optimum Conditions", JRSS B 13
    (1951); coordinates: Egozcue et al., Mathematical Geology 35 (2003). Leave-one-out R^2 from the hat matrix,
    ``1 - sum (e_i / (1 - h_ii))^2 / sum (y_i - mean without i)^2`` (Allen's PRESS). The optimum's region comes from
    a wild bootstrap of the residuals (Wu, Annals of Statistics 14, 1986), which keeps the points and so is valid for
    a lattice too. Points that lie further above the median than the third quartile lies above the best are left out:
    scores rise steeply towards the edges, and a quadratic fitted to them would be wrong near the minimum.
    """
    points = static_points(search)
    w = weight_columns(points, tasks, "geometric")
    usable = np.isfinite(w).all(axis=1) & (w > 0).all(axis=1)
    w, y = w[usable], points["score"].to_numpy(dtype=float)[usable]
    d = len(tasks) - 1
    needed = 1 + d + d * (d + 1) // 2
    limit = float(np.median(y) + np.quantile(y, 0.75) - y.min()) if len(y) else float("nan")
    near = y <= limit
    if d < 1 or near.sum() <= needed:
        found = f"{near.sum()} point{'' if near.sum() == 1 else 's'}"
        return Surface(False, False, f"{found}, but more than {needed} are needed")
    z = ilr(w[near])
    X = _terms(z)
    if np.linalg.matrix_rank(X) < needed:
        return Surface(False, False, "the points do not span the log-ratios")
    return _fitted(X, z, y[near], limit)


def _fitted(X: Vector, z: Vector, y: Vector, limit: float) -> Surface:
    inverse = np.linalg.pinv(X)
    coefficients = inverse @ y
    residuals = y - X @ coefficients
    leverage = np.clip(np.einsum("ij,ji->i", X, inverse), 0, 1 - 1e-9)
    n = len(y)
    total = float((((y - y.mean()) * n / (n - 1)) ** 2).sum())
    unseen = residuals / (1 - leverage)
    r2 = 1 - float((unseen**2).sum()) / total if total > 0 else float("nan")
    if not np.isfinite(r2):
        return Surface(False, False, "all points have the same score", r2, coefficients, limit)
    if r2 < IDENTIFIED:
        return Surface(False, False, f"leave-one-out R\N{SUPERSCRIPT TWO} is {r2:.2f}", r2, coefficients, limit)
    lowest, found = _lowest(coefficients[None], z)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(RESAMPLES, n))
    resampled = (X @ coefficients + signs * unseen) @ inverse.T
    optima, inside = _lowest(resampled, z)
    share = float(inside.mean())
    if not found[0] or share < 0.95:
        reason = f"its lowest point is inside the searched region in only {share:.0%} of resamples"
        return Surface(True, False, reason, r2, coefficients, limit)
    optimum = ilr_inverse(lowest[0])
    height = float(_terms(lowest[:1])[0] @ coefficients)
    return Surface(
        True, True, "", r2, coefficients, limit, optimum, height, ilr_inverse(optima[inside]), n - X.shape[1]
    )


def _terms(z: Vector) -> Vector:
    """Return 1, z_i, z_i z_j (i <= j) along the last axis."""
    rows, columns = np.triu_indices(z.shape[-1])
    return np.concatenate([np.ones_like(z[..., :1]), z, z[..., rows] * z[..., columns]], axis=-1)


def _lowest(coefficients: Vector, z: Vector) -> tuple[Vector, np.ndarray]:
    """Return stationary points of quadratics, shape (n, d), and which are minima no further out than the points."""
    d = z.shape[1]
    rows, columns = np.triu_indices(d)
    A = np.zeros((len(coefficients), d, d))
    A[:, rows, columns] = coefficients[:, 1 + d :]
    A = (A + A.transpose(0, 2, 1)) / 2
    curved = np.asarray(np.linalg.eigvalsh(A)[:, 0] > 1e-12)
    A[~curved] = np.eye(d)
    at = np.asarray(np.linalg.solve(A, -coefficients[:, 1 : 1 + d, None] / 2)[..., 0], dtype=np.float64)
    reach = np.linalg.norm(z - z.mean(axis=0), axis=1).max()
    return at, curved & (np.linalg.norm(at - z.mean(axis=0), axis=1) <= reach)


def _mahalanobis(z: Vector, centre: Vector, inverse: Vector) -> Vector:
    off = z - centre
    return np.asarray(np.einsum("...i,ij,...j->...", off, inverse, off))
