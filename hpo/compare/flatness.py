"""An optimum so flat, or a score so noisy, that the choice among many static points is partly chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from hpo.compare.trial_table import Vector, static_points, weight_columns
from hpo.compare.weight_distances import closed
from search_spaces.log_ratio import clr

FEWEST = 5  # static points as good as the best one, itself among them, below which nothing is said
SHARE = 1 / 3  # of all static points, likewise
OUTER = 0.8  # an arm is extreme if so large a share of those points lies nearer to their centre


def flat_optimum(
    search: pd.DataFrame, equals: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]
) -> Iterator[str]:
    """Alarm if at least `SHARE` of the static points, and at least `FEWEST`, cannot be distinguished from the best.

    It names how many they are, how far apart their weights, and where among them the recommended arm lies: how many
    of them are nearer to their centre, the mean of their centred log-ratios, in Aitchison distance. A point that the
    confirm seeds find worse than the best one is not offered in its place.

    Which arm is recommended stays as it is: the best on validation. The line says what else would do.

    Args:
        search: the scored trials of the search seed.
        equals: the static points not distinguishable from the best one (`hpo.compare.weight_distances.region`).
        arms: the table of arms.
        tasks: their names.
    """
    points, count = len(static_points(search, stopped=True)), len(equals)  # those stopped early were told apart
    if count < FEWEST or count < SHARE * points:
        return
    w = weight_columns(equals, tasks, "geometric")
    if len(tasks) < 2 or not (w > 0).all():
        return
    yield " ".join([_count(closed(w), points, tasks), *_place(w, equals, arms, tasks), _remedy()])


def _count(w: Vector, points: int, tasks: Sequence[str]) -> str:
    low, high = w.min(axis=0), w.max(axis=0)
    widest = int(np.argmax(high / low))
    return (
        f"{len(w)} of {points} static points cannot be distinguished from the best one by one seed's score, "
        f"though the weight of {tasks[widest]} runs from {low[widest]:.2g} to {high[widest]:.2g} among them: "
        "the score is flat there, or too noisy, and which of them comes first is partly chance."
    )


def _place(w: Vector, equals: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]) -> Iterator[str]:
    """Where the recommended arm lies among the points, and what would do as well."""
    shares = clr(w)
    centre = shares.mean(axis=0)
    far = np.linalg.norm(shares - centre, axis=1)
    worse = set(arms.loc[arms["regret"].notna() & (arms["regret_low"] > 0), "arm"]) if len(arms) else set()
    as_good = ~equals["arm"].isin(worse).to_numpy()
    names = equals["arm"].to_numpy()
    nearest = str(names[as_good][far[as_good].argmin()]) if as_good.any() else ""
    for _, row in arms[arms["recommended"]].iterrows() if len(arms) else ():
        own = row[[f"w/{task}" for task in tasks]].to_numpy(dtype=np.float64)
        if (own > 0).all():
            yield from _recommended(str(row["arm"]), float(np.linalg.norm(clr(own) - centre)), far, names, nearest)
    if "equal" in set(names[as_good]):
        yield "Equal weights are among them: as far as these seeds can tell, they would do."


def _recommended(arm: str, own: float, far: Vector, names: np.ndarray, nearest: str) -> Iterator[str]:
    others = far[names != arm]
    nearer = int((others < own).sum())
    if arm == nearest:
        yield f"The recommended arm, {arm}, is the nearest of them to their centre."
    elif nearer >= OUTER * len(others):
        told = f"{nearer} of the {len(others)} other points are nearer to their centre"
        yield f"The recommended arm, {arm}, is extreme: {told}."
        if nearest:
            yield f"The nearest to that centre, {nearest}, is as good as far as these seeds can tell."
    else:
        yield f"Of the other points, {nearer} are nearer to their centre than the recommended arm, {arm}."


def _remedy() -> str:
    return "To tell more of them apart, raise confirm.top_static and seeds in the study file."
