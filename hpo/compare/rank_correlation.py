"""Rank correlation: agreement of two orders."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from hpo.compare.trial_table import Vector


def spearman(one: ArrayLike, others: ArrayLike) -> Vector:
    """Compute Spearman's rho of one variable with each of many. Ties have their mean rank.

    Spearman, "The Proof and Measurement of Association between Two Things", American Journal of Psychology 15 (1904).

    Args:
        one: shape (n,).
        others: shape (k, n).

    Returns:
        Shape (k,); NaN below three values, and where a variable is constant or lacks a value.
    """
    x, y = np.asarray(one, dtype=np.float64), np.asarray(others, dtype=np.float64)
    found = np.full(len(y), np.nan)
    rows = np.vstack([x, y])
    varied = ~np.isnan(rows).any(axis=1) & (rows != rows[:, :1]).any(axis=1)
    if len(x) > 2 and varied[0] and varied[1:].any():
        rho = np.atleast_2d(
            stats.spearmanr(rows[varied], axis=1).statistic
        )  # a number for two variables, not a matrix
        found[varied[1:]] = rho[0, -int(varied[1:].sum()) :]
    return found
