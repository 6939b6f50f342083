"""Alarm on a flat optimum or a noisy score, where the choice among many static points is partly chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from hpo.compare.trial_table import Vector, static_points, weight_columns
from hpo.compare.weight_distances import closed
from search_spaces.log_ratio import clr

FEWEST = 5  # least number of static points as good as the best one (which counts) that raises the alarm
SHARE = 1 / 3  # least share of all static points, likewise
OUTER = 0.8  # an arm is extreme if at least this share of those points is nearer to their centre


def flat_optimum(
    search: pd.DataFrame, equals: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]
) -> Iterator[str]:
    """Alarm if at least `SHARE` of the static points, and at least `FEWEST`, cannot be distinguished from the best.

    The alarm gives their number, the range of their weights, and the place of the recommended arm: how many of them
    are nearer to their centre, the mean of their centred log-ratios, in Aitchison distance. A point that is worse
    than the best one on the confirm seeds is not offered as an alternative. The recommended arm itself does not
    change.

    Args:
        search: the scored trials of the search seed.
        equals: the static points not distinguishable from the best one (`hpo.compare.weight_distances.region`).
        arms: the table of arms.
        tasks: their names.
    """
    points, count = len(static_points(search, stopped=True)), len(equals)  # points stopped early were distinguished
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
        f"{len(w)} of {points} static points cannot be distinguished from the best one by the score of a single "
        f"seed. The weight of {tasks[widest]} ranges from {low[widest]:.2g} to {high[widest]:.2g} among them. "
        "The score is flat there, or too noisy, and the order of these points is partly chance."
    )


def _place(w: Vector, equals: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]) -> Iterator[str]:
    """Describe the place of the recommended arm among the points, and the alternatives."""
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
        yield "Equal weights are among them, so they may do as well."


def _recommended(arm: str, own: float, far: Vector, names: np.ndarray, nearest: str) -> Iterator[str]:
    others = far[names != arm]
    nearer = int((others < own).sum())
    if arm == nearest:
        yield f"The recommended arm, {arm}, is the one nearest to their centre."
    elif nearer >= OUTER * len(others):
        amount = f"{nearer} of the {len(others)} other points are nearer to their centre"
        yield f"The recommended arm, {arm}, is extreme: {amount}."
        if nearest:
            yield f"The point nearest to that centre, {nearest}, is as good as far as these seeds show."
    else:
        yield f"Of the other points, {nearer} are nearer to their centre than the recommended arm, {arm}."


def _remedy() -> str:
    return "To distinguish more of them, raise confirm.top_static and seeds in the study file."
