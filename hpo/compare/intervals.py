"""A mean over seeds, its interval, the four words, and how many seeds a word would take."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

MOST_SEEDS = 1000  # beyond this many we only say "more"


class Interval(NamedTuple):
    """A mean over seeds with its two-sided confidence interval; NaN bounds below two seeds."""

    mean: float
    low: float
    high: float
    seeds: int


NO_INTERVAL = Interval(math.nan, math.nan, math.nan, 0)


def interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval, ``mean +- t_{n-1} s / sqrt(n)``."""
    x = np.asarray(values, dtype=float)
    n, mean = len(x), float(np.mean(x)) if len(x) else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * np.std(x, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def deviation(found: Interval, confidence: float = 0.95) -> float:
    """The standard deviation s over seeds that a t interval was made from."""
    if found.seeds < 2:
        return math.nan
    half = (found.high - found.low) / 2
    return half * math.sqrt(found.seeds) / float(stats.t.ppf((1 + confidence) / 2, found.seeds - 1))


def regret(arm: pd.DataFrame, static: pd.DataFrame, split: str) -> pd.Series:
    """Score of an arm minus score of the best static arm, on the seeds that both have; index: seed."""
    column = f"score_{split}"
    return (arm.set_index("seed")[column] - static.set_index("seed")[column]).dropna()


def judge(found: Interval, margin: float, level: float = 0.05) -> str:
    """One of four words on a regret paired by seed, from its interval of confidence ``1 - level``.

    *equivalent*: two one-sided t tests both reject a regret outside +-margin (TOST: Schuirmann, J. Pharmacokinetics
    and Biopharmaceutics 15, 1987), which is the same as the interval of confidence ``1 - 2 level`` lying inside. It
    comes first: a difference inside the margin was declared not to matter. *better*, *worse*: the interval lies
    below or above 0. *inconclusive*: none of these, or fewer than two seeds.

    Args:
        found: mean and interval over n seeds.
        margin: what does not matter, in the units of the regret.
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
    """The fewest seeds that give a verdict with probability ``power``, if mean and scatter are what was seen.

    A verdict is a difference (two-sided t test: power ``P(|T'| > t_{1-level/2})``, T' noncentral t with
    ``mean sqrt(n) / s``) or equivalence (TOST: power ``P(T'_low > t_{1-level}) + P(T'_high < -t_{1-level}) - 1`` with
    noncentralities ``(mean +- margin) sqrt(n) / s``; Phillips, J. Pharmacokinetics and Biopharmaceutics 18, 1990).

    Returns:
        n, or 0 if more than `MOST_SEEDS` are needed.
    """
    if not (math.isfinite(mean) and math.isfinite(s)):
        return 0
    if s == 0:
        return 2
    n = np.arange(2, MOST_SEEDS + 1)
    scale, df = np.sqrt(n) / s, n - 1
    two_sided, one_sided = stats.t.ppf(1 - level / 2, df), stats.t.ppf(1 - level, df)
    different = stats.nct.sf(two_sided, df, abs(mean) * scale)  # the other tail adds less than level / 2
    above = stats.nct.sf(one_sided, df, (mean + margin) * scale)
    below = stats.nct.cdf(-one_sided, df, (mean - margin) * scale)
    enough = n[np.nan_to_num(np.maximum(different, above + below - 1), nan=1.0) >= power]
    return int(enough[0]) if len(enough) else 0
