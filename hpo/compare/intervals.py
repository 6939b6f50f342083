"""A mean over seeds, its interval, the verdict on it, and the number of seeds that a verdict needs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats
from scipy.special import ndtr

MOST_SEEDS = 1000  # larger numbers are reported as "more"
QUANTILES = 64  # of the standard deviation, for integrating the power


class Interval(NamedTuple):
    """A mean over seeds with its two-sided confidence interval; NaN bounds below two seeds."""

    mean: float
    low: float
    high: float
    seeds: int


NO_INTERVAL = Interval(math.nan, math.nan, math.nan, 0)


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Compute the mean with Student's t interval, ``mean +- t_{n-1} s / sqrt(n)``."""
    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(np.mean(x)) if len(x) else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(x, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def regret(arm: pd.DataFrame, static: pd.DataFrame, split: str) -> pd.Series:
    """Subtract the score of the best static arm from an arm's, on the seeds that both have; index: seed."""
    column = f"score_{split}"
    return (arm.set_index("seed")[column] - static.set_index("seed")[column]).dropna()


def judge(found: Interval, margin: float, level: float = 0.05) -> str:
    """Return one of four verdicts on a regret paired by seed, from its interval of confidence ``1 - level``.

    *equivalent*: two one-sided t tests both reject a regret outside +-margin (TOST: Schuirmann, J. Pharmacokinetics
    and Biopharmaceutics 15, 1987), which is the same as the interval of confidence ``1 - 2 level`` lying inside. It
    is tested first, because the margin defines which differences do not matter. *better*, *worse*: the interval lies
    below or above 0. *inconclusive*: none of these, or fewer than two seeds.

    Args:
        found: mean and interval over n seeds.
        margin: the largest regret that does not matter, in the units of the regret.
        level: of each of the tests.
    """
    if found.seeds < 2:
        return "inconclusive"
    wide, narrow = (float(stats.t.ppf(1 - tail, found.seeds - 1)) for tail in (level / 2, level))
    half = (found.high - found.low) / 2 * narrow / wide
    if -margin < found.mean - half and found.mean + half < margin:
        return "equivalent"
    if found.high < 0:
        return "better"
    return "worse" if found.low > 0 else "inconclusive"


def seeds_needed(mean: float, s: float, margin: float, level: float = 0.05, power: float = 0.8) -> int:
    """Compute the fewest seeds that give a verdict with probability ``power``, for a given mean and deviation s.

    There is no verdict if `judge` finds the mean m neither within the margin nor different from 0,
    ``margin - t_{1-level} S / sqrt(n) <= |m| <= t_{1-level/2} S / sqrt(n)``, with m normal and, independent of it,
    ``(n - 1) S^2 / s^2`` chi-squared: normal probabilities given S, integrated over its quantiles (as for the exact
    power of TOST: Owen, "A Special Case of a Bivariate Non-Central t-Distribution", Biometrika 52, 1965).

    Returns:
        n, or 0 if more than `MOST_SEEDS` are needed.
    """
    if not (math.isfinite(mean) and math.isfinite(s)):
        return 0
    if s == 0:
        return 2
    n = np.arange(2, MOST_SEEDS + 1)[:, None]
    nodes, shares = np.polynomial.legendre.leggauss(QUANTILES)
    seen = s * np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1))  # S, shape (n, quantiles)
    two_sided, one_sided = (stats.t.ppf(1 - tail, n - 1) * seen / np.sqrt(n) for tail in (level / 2, level))
    near = np.minimum(np.maximum(margin - one_sided, 0), two_sided)
    error = s / np.sqrt(n)
    below, above = (ndtr((side * two_sided - mean) / error) - ndtr((side * near - mean) / error) for side in (-1, 1))
    verdicts = 1 - (above - below) @ (shares / 2)
    enough = np.flatnonzero(verdicts >= power) + 2
    return int(enough[0]) if len(enough) else 0
