"""Rank of one GradNorm run among the static points, with an interval."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import stats

from hpo.compare.trial_table import Vector, best_runs, static_points

RESAMPLES = 4000


def clopper_pearson(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the exact interval of a share.

    Clopper and Pearson, "The Use of Confidence or Fiducial Limits Illustrated in the Case of the Binomial",
    Biometrika 26 (1934).

    Args:
        hits: number of hits in ``n`` independent draws.
        n: number of draws.
        confidence: two-sided.
    """
    if n == 0:
        return math.nan, math.nan
    found = stats.binomtest(hits, n).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def ranks(search: pd.DataFrame, noise: tuple[float, float], random_points: bool) -> pd.DataFrame:
    """Rank each recipe's best run: 1 + the number of static points with a lower validation score, on the search seed.

    Points drawn at random are a sample of all points of their design: ``better`` is the share of them that is better
    than the run, with a Clopper-Pearson interval (without equal weights, which were not drawn). A lattice is not a
    sample, and only the seed is random: ``rank_low, rank_high`` are the 2.5 and 97.5% quantiles of the rank when
    noise of the size of the variation between seeds is added to every score (`seed_noise`; a parametric bootstrap,
    since the search has one seed).

    Returns:
        ``recipe, alpha, score, rank, points, better, better_low, better_high, rank_low, rank_high``; NaN where it
        does not apply.
    """
    points = static_points(search, stopped=True)
    drawn = points[points["kind"] == "static"]["score"]
    rows = []
    for recipe, best in best_runs(search).items():
        score = float(best["score"])
        row = {"recipe": recipe, "alpha": best["alpha"], "score": score, "points": len(points)}
        row |= {"rank": 1 + int((points["score"] < score).sum())}
        row |= _share(drawn, score) if random_points else _rank_interval(points["score"].to_numpy(), score, noise[0])
        rows.append(row)
    columns = ["recipe", "alpha", "score", "rank", "points"]
    columns += ["better", "better_low", "better_high", "rank_low", "rank_high"]
    return pd.DataFrame(rows, columns=columns)


def _share(drawn: pd.Series, score: float) -> dict[str, float]:
    hits = int((drawn < score).sum())
    low, high = clopper_pearson(hits, len(drawn))
    return {"better": hits / len(drawn) if len(drawn) else math.nan, "better_low": low, "better_high": high}


def _rank_interval(points: Vector, score: float, sigma: float) -> dict[str, float]:
    if not (math.isfinite(sigma) and len(points)):
        return {}
    random = np.random.default_rng(0)
    moved = points + sigma * random.normal(size=(RESAMPLES, len(points)))
    run = score + sigma * random.normal(size=(RESAMPLES, 1))
    low, high = np.quantile(1 + (moved < run).sum(axis=1), [0.025, 0.975], method="inverted_cdf")
    return {"rank_low": float(low), "rank_high": float(high)}
