"""Size and cost of a static search whose best point is as good as GradNorm."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from opda.nonparametric import EmpiricalDistribution
from scipy.special import gammaln

from hpo.compare.ranks import clopper_pearson
from hpo.compare.trial_table import Vector, best_runs, static_points
from hpo.core.arm import SEARCHED

EXACT_SIZES = 1000  # up to which the curve has every k; above, steps of a percent, as n values of n points take n^2
EXACT_BANDS = 100  # most points for the tighter of two bands, whose run time grows with their square
TERMS = 2**20  # of a curve that are held at once


@dataclass(frozen=True)
class Budget:
    """The expected best of k static points, and the k that matches GradNorm.

    Attributes:
        curve: ``k, expected, low, high``: expected best score of k static points, with a 95% band. It has every k up
            to 1,000, then about each hundredth, and the number of points.
        table: for each recipe ``recipe, score``, the result of `match`, and for ``steps`` and ``seconds`` what k
            static points take, in multiples of the recipe's alpha sweep (``_sweep``) and of its best run
            (``_run``); ``_low`` is the same for k_low.
    """

    curve: pd.DataFrame
    table: pd.DataFrame

    @property
    def points(self) -> int:
        """The number of static points."""
        return _points(self.curve)


def _points(curve: pd.DataFrame) -> int:
    return int(curve["k"].iloc[-1]) if len(curve) else 0


def sizes(n: int) -> NDArray[np.int64]:
    """Return the k at which the curve of n points is computed."""
    steps = math.ceil(100 * math.log(n / EXACT_SIZES)) if n > EXACT_SIZES else 0
    far = np.geomspace(EXACT_SIZES, n, steps + 1) if steps else np.empty(0)
    return np.unique(np.concatenate([np.arange(1, min(n, EXACT_SIZES) + 1), np.rint(far)]).astype(np.int64))


def expected_best(scores: ArrayLike) -> Vector:
    """Compute the expected lowest score of k points drawn from n without replacement, for each k of `sizes`.

    ``E_k = sum_i y_(i) C(n - i, k - 1) / C(n, k)``, y_(i) the i-th lowest: among the C(n, k) sets of k points,
    y_(i) is the lowest of those that take k - 1 of the n - i above it. This is the unbiased form of the estimator of
    Dodge et al., "Show Your Work", EMNLP 2019, given by Tang et al., "Showing Your Work Doesn't Always Work", ACL
    2020. It is computed in logarithms, because opda's `u_tuning_curve` overflows from n = 1030 on.
    """
    y = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(y)
    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    i = np.arange(1, n + 1)[None]

    def log_choose(n: NDArray[np.int64] | int, k: NDArray[np.int64]) -> Vector:
        return np.asarray(log_factorial[n] - log_factorial[k] - log_factorial[n - k])

    def expected(some: NDArray[np.int64]) -> Vector:
        k = some[:, None]
        possible = k - 1 <= n - i
        log_share = log_choose(n - i, np.where(possible, k - 1, 0)) - log_choose(n, k)
        return np.asarray(np.where(possible, np.exp(log_share), 0.0) @ y)

    return _by_parts(expected, sizes(n), n)


def _by_parts(curve: Callable[[NDArray[np.int64]], Vector], k: NDArray[np.int64], n: int) -> Vector:
    """Compute a curve of n points part by part: all of its ``len(k)`` times ``n`` terms would take gigabytes."""
    rows = max(1, TERMS // max(1, n))
    return np.concatenate([np.empty(0), *(curve(k[start : start + rows]) for start in range(0, len(k), rows))])


def best_of_k(scores: ArrayLike) -> pd.DataFrame:
    """Compute `expected_best` with a 95% band for points drawn at random: columns ``k, expected, low, high``.

    The band comes from simultaneous bands of the distribution of scores, within the range of scores seen (Lourie,
    Cho, He, "Show Your Work with Confidence", NAACL 2024; package opda): Learned-Miller and DeStefano's up to 100
    points, Kolmogorov and Smirnov's above. The band cannot account for points that are better than the best one seen:
    its lower end covers in 95 of 100 searches up to about k = n / 4 and in fewer for larger k
    (tests/hpo/compare/test_budget.py); its upper end covers for all k.
    """
    y = np.sort(np.asarray(scores, dtype=np.float64))
    k = sizes(len(y))
    if len(y) < 2:
        return pd.DataFrame({"k": k, "expected": y, "low": y, "high": y})
    expected = expected_best(y)  # without replacement: near k = n it can be slightly below the band
    ends = [EmpiricalDistribution(y, ws=shares, a=y[0], b=y[-1]) for shares in _band_shares(len(y))]
    low, high = (_by_parts(partial(end.average_tuning_curve, minimize=True), k, len(y)) for end in ends)
    return pd.DataFrame({"k": k, "expected": expected, "low": np.minimum(low, expected), "high": high})


@lru_cache(maxsize=64)
def _band_shares(n: int) -> tuple[Vector, Vector]:
    """Return the probability of each of n sorted scores at both ends of the band, which depends on n alone."""
    method = "ld_equal_tailed" if n <= EXACT_BANDS else "ks"
    places = np.arange(n, dtype=np.float64)
    few, _, many = EmpiricalDistribution.confidence_bands(
        places, 0.95, a=places[0], b=places[-1], method=method, generator=np.random.default_rng(0), n_jobs=1
    )
    return many.pmf(places), few.pmf(places)


def budget(search: pd.DataFrame) -> Budget:
    """Compute the curve and, for each recipe, how many static points match its alpha sweep, on the search seed."""
    points = static_points(search, stopped=True)
    curve = best_of_k(points["score"])
    searched = search[search["kind"].isin(SEARCHED)]
    rows = []
    for recipe, best in best_runs(search).items() if len(points) else ():
        runs = search[(search["kind"] == "gradnorm") & (search["recipe"] == recipe)]
        hits = int((points["score"] <= best["score"]).sum())
        found = match(curve, float(best["score"]), hits)
        row: dict[str, object] = {"recipe": recipe, "score": float(best["score"]), **found}
        for unit in ("steps", "seconds"):
            each = float(searched[unit].sum()) / len(points)  # trials that diverged count as tried
            for way, spent in (("sweep", float(runs[unit].sum())), ("run", float(best[unit]))):
                row[f"{unit}_{way}"] = found["k"] * each / spent if spent else math.nan
                row[f"{unit}_{way}_low"] = found["k_low"] * each / spent if spent else math.nan
        rows.append(row)
    units = [f"{u}_{w}{end}" for u in ("steps", "seconds") for w in ("sweep", "run") for end in ("", "_low")]
    columns = ["recipe", "score", "k", "k_low", "k_high", "beyond", *units]
    return Budget(curve, pd.DataFrame(rows, columns=columns))


def match(curve: pd.DataFrame, score: float, hits: int) -> dict[str, float | bool]:
    """Find the fewest points k whose best is expected to be as good as a score: ``min {k: E_k <= score}``.

    ``k_low`` is the smaller of two values: the k at which the lower end of the band reaches the score; and the k
    whose best reaches it with probability 1/2, ``ln(1/2) / ln(1 - share)``, where share is the upper end of Clopper
    and Pearson's 95% interval of the share of points that are as good. The second is needed because the band does not
    account for points that are better than the best one seen.

    Args:
        curve: of n points, from `best_of_k`.
        score: the score to match.
        hits: number of the n points that are as good.

    Returns:
        ``k``; ``k_low``; ``k_high``, where the upper end of the band reaches the score; ``beyond``, true if even
        all n points together do not match it. A ``k`` or ``k_high`` that is never reached is n, which means n or
        more.
    """
    n = _points(curve)
    reached = {name: np.flatnonzero(curve[name].to_numpy() <= score + 1e-12) for name in ("expected", "low", "high")}
    first = {name: int(curve["k"].iloc[at[0]]) if len(at) else n for name, at in reached.items()}
    _, share = clopper_pearson(hits, n)
    even = math.ceil(math.log(0.5) / math.log1p(-share)) if share < 1 else 1
    return {
        "k": first["expected"],
        "k_low": min(first["low"], first["expected"], even),
        "k_high": max(first["high"], first["expected"]),
        "beyond": not len(reached["expected"]),
    }
