"""A race over seeds: arms that may still be the best are trained on one more seed, the others are dropped."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import pandas as pd

MOST = 3  # arms on each seed after the first
CLOSE = 2.0  # standard errors of a difference


def survivors(scores: pd.DataFrame, most: int = MOST) -> list[str]:
    """Return the arms that are worth another seed, best first; fewer than two if the race is decided.

    After one seed the noise is unknown: the best half continues. Later, an arm continues if its mean is within two
    standard errors of the leader's. At most ``most`` do. The standard error of a difference of two means over S
    seeds is ``sqrt(2 s**2 / S)``, with s**2 the residual variance of the two-way table, seeds by arms.

    Args:
        scores: lower is better; arms in columns, seeds in rows, NaN where an arm has no score on a seed.
        most: arms on the next seed. `benchmarks.stored_races` shows what more or fewer find on stored scores.

    >>> survivors(pd.DataFrame({"a": [1.0], "b": [2.0], "c": [9.0], "d": [8.0]}))
    ['a', 'b']
    >>> survivors(pd.DataFrame({"a": [1.0, 3.0], "b": [9.0, 11.1]}))
    ['a']
    """
    table = _in_race(scores)
    order = table.mean().sort_values(kind="stable")
    S, A = table.shape
    if S < 2:
        return list(order.index[: min(most, max(2, math.ceil(A / 2)))])
    if A < 2:
        return list(order.index)
    residuals = table - table.mean() - table.mean(axis=1).to_numpy()[:, None] + table.to_numpy().mean()
    variance = float((residuals**2).to_numpy().sum()) / ((A - 1) * (S - 1))
    close = order[order <= order.iloc[0] + CLOSE * float(np.sqrt(2 * variance / S))]
    return list(close.index[:most])


def leader(scores: pd.DataFrame, among: Collection[str] | None = None) -> str:
    """Return the arm with the best mean, of those that are still in the race; empty if there is none.

    Args:
        scores: see `survivors`.
        among: the arms to choose from; default: all.
    """
    table = scores if among is None else scores[[arm for arm in scores if arm in among]]
    means = _in_race(table).mean()
    return "" if means.empty else str(means.idxmin())


def _in_race(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the arms with scores on the most seeds, on those seeds."""
    counts = scores.notna().sum()
    most = int(counts.max()) if len(counts) else 0
    return scores.loc[:, counts == most].dropna() if most else scores.iloc[:0, :0]
