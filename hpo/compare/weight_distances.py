"""Distances of GradNorm's weights to the best static weights and to all points as good as those."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from hpo.compare.trial_table import Vector, best_runs, static_points, weight_columns, weights_of
from hpo.core.arm import KNOWN
from hpo.core.trial import AVERAGES
from search_spaces.log_ratio import centred


class Distance(NamedTuple):
    """Distance between two points of weights, by three measures."""

    aitchison: float
    l2: float
    factor: float


def distance(a: ArrayLike, b: ArrayLike) -> Distance:
    """Compute three distances between two points of weights, shape (T,), each scaled to sum to T first.

    *Aitchison*: Euclidean distance of the centred log-ratios ``ln w_i - mean_j ln w_j`` (Aitchison, "The Statistical
    Analysis of Compositional Data", 1986); it does not depend on the units of the losses. *L2*: Euclidean distance of
    w (the GradNorm paper, Figure 4). *factor*: the largest factor by which a weight is off, ``max_i max(a_i/b_i,
    b_i/a_i)``.
    """
    return Distance(*(float(column[0]) for column in distances_to(a, np.atleast_2d(b))))


def distances_to(point: ArrayLike, others: ArrayLike) -> tuple[Vector, Vector, Vector]:
    """Compute the `distance` of one point, shape (T,), to many, shape (n, T): three arrays of shape (n,)."""
    x, y = closed(point), closed(others)
    zero = (x == 0).any(axis=-1) | (y == 0).any(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(x) - np.log(y)
        factor = np.exp(np.abs(ratio).max(axis=1))
        aitchison = np.linalg.norm(centred(ratio), axis=1)
    infinite = (np.where(zero, np.inf, one) for one in (aitchison, factor))  # a weight of 0 is infinitely far
    return next(infinite), np.linalg.norm(x - y, axis=1), next(infinite)


def closed(w: ArrayLike) -> Vector:
    """Scale weights to sum to T along the last axis."""
    x: Vector = np.asarray(w, dtype=np.float64)
    _, exponent = np.frexp(x.max(axis=-1, keepdims=True))
    x = np.ldexp(x, -exponent)  # exact, and no sum is infinite then
    return np.asarray(x * (x.shape[-1] / x.sum(axis=-1, keepdims=True)))


def mean_weights(trials: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Average E_t[w] (geometric) over seeds by the geometric mean; for fixed weights, these are the weights.

    Returns:
        One row per arm, in the order of the trials, with columns ``w/<task>``; NaN where a weight is not above 0.
    """
    place, arms = pd.factorize(trials["arm"])
    w = weight_columns(trials, tasks, "geometric")
    logs = np.log(np.where((w > 0).all(axis=1, keepdims=True), w, np.nan))
    sums = np.zeros((len(arms), len(tasks)))
    np.add.at(sums, place, logs)  # NaN of one seed is NaN of the arm
    mean = closed(np.exp(sums / np.bincount(place, minlength=len(arms))[:, None]))
    return pd.DataFrame(mean, index=pd.Index(arms, name="arm"), columns=[f"w/{task}" for task in tasks])


def region(search: pd.DataFrame, static: str, noise: tuple[float, float]) -> pd.DataFrame:
    """Return the best static point and all that one seed's score cannot distinguish from it.

    A point is distinguished if its validation score on the search seed lies above that of the best one by more than
    ``t_{0.975, df} sqrt(2) sigma``: a t test on two single scores with the noise sigma of the confirm seeds
    (`seed_noise`).

    Args:
        search: scored trials of the search seed.
        static: the best static arm, chosen on the confirm seeds' validation.
        noise: sigma and its degrees of freedom.

    Returns:
        Rows of ``search``, best first; the best point alone if there is no estimate of the noise.
    """
    points = static_points(search)
    best = points[points["arm"] == static]
    if best.empty:
        return best
    sigma, df = noise
    reach = float(stats.t.ppf(0.975, df)) * math.sqrt(2) * sigma if df > 0 else 0.0
    return points[(points["score"] <= float(best["score"].iloc[0]) + reach) & (points["score"].notna())]


def distances(
    search: pd.DataFrame, arms: pd.DataFrame, static: str, equals: pd.DataFrame, tasks: Sequence[str]
) -> pd.DataFrame:
    """Compute the distances of E_t[w] to the best static arm and to the region, by recipe and average.

    Args:
        search: scored trials of the search seed; E_t[w] is that of each recipe's best alpha.
        arms: table of the confirm arms.
        static: the best static arm.
        equals: the `region`.
        tasks: their names.

    Returns:
        ``recipe, average, alpha``, the fields of `Distance`, ``region_<field>`` with the distance to the nearest
        point of the region, ``nearest`` (that point's arm), ``known_<field>`` with the distance to the weights that
        are known to be best, NaN on real data, and ``w/<task>``.
    """
    rows = []
    target, known = _weights(arms, static, tasks), _weights(arms, KNOWN, tasks)
    for recipe, best in best_runs(search).items() if len(target) else ():
        for average in AVERAGES:
            w = weights_of(best, tasks, average)
            row = {"recipe": recipe, "average": average, "alpha": best["alpha"], **distance(w, target[0])._asdict()}
            row |= _to_region(w, equals, tasks)
            far = distance(w, known[0]) if len(known) else Distance(math.nan, math.nan, math.nan)
            row |= {f"known_{field}": value for field, value in far._asdict().items()}
            rows.append(row | {f"w/{task}": value for task, value in zip(tasks, w, strict=True)})
    others = [f"{target}_{field}" for target in ("region", "known") for field in Distance._fields]
    columns = ["recipe", "average", "alpha", *Distance._fields, *others, "nearest", *(f"w/{t}" for t in tasks)]
    return pd.DataFrame(rows, columns=columns)


def _weights(arms: pd.DataFrame, arm: str, tasks: Sequence[str]) -> Vector:
    """Return the weights of an arm, shape (1, T), or (0, T) without it."""
    return arms.loc[arms["arm"] == arm, [f"w/{task}" for task in tasks]].to_numpy(dtype=np.float64)


def _to_region(w: Vector, equals: pd.DataFrame, tasks: Sequence[str]) -> dict[str, object]:
    if equals.empty or not np.isfinite(w).all():
        return {f"region_{field}": math.nan for field in Distance._fields} | {"nearest": ""}
    found = distances_to(w, weight_columns(equals, tasks, "geometric"))
    nearest = int(np.argmin(found[0]))
    at = {f"region_{field}": float(d[nearest]) for field, d in zip(Distance._fields, found, strict=True)}
    return {**at, "nearest": str(equals["arm"].iloc[nearest])}
