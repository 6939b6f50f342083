"""The table of trials that every comparison starts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpo.core.arm import SEARCHED
from hpo.core.trial import TrialStatus

Vector = NDArray[np.float64]

TRIAL_COLUMNS = [
    "identity",
    "arm",
    "phase",
    "search",
    "kind",
    "recipe",
    "alpha",
    "seed",
    "status",
    "steps",
    "seconds",
    "alarms",
]


def best_trial(trials: pd.DataFrame, column: str = "objective") -> pd.Series | None:
    """Return the row with the lowest finite value, the first of equals; ``None`` if there is none."""
    finite = trials[np.isfinite(trials[column].astype(float))]
    return None if finite.empty else finite.iloc[int(finite[column].argmin())]


def best_runs(search: pd.DataFrame) -> dict[str, pd.Series]:
    """Return for each recipe the search trial of its best alpha."""
    runs = search[search["kind"] == "gradnorm"]
    best = {str(recipe): best_trial(group) for recipe, group in runs.groupby("recipe", sort=False)}
    return {recipe: row for recipe, row in best.items() if row is not None}


def static_points(search: pd.DataFrame, stopped: bool = False) -> pd.DataFrame:
    """Return the trials of the static search that have a score, best first.

    Args:
        search: the scored trials of the search seed.
        stopped: include trials that were stopped early, whose score is that of their last epoch.
    """
    points = search[search["kind"].isin(SEARCHED) & search["score"].notna()]
    return points if stopped or "status" not in points else points[points["status"] != TrialStatus.STOPPED]


def weights_of(row: pd.Series, tasks: Sequence[str], average: str) -> Vector:
    """Return E_t[w] of a row of trials, shape (T,)."""
    return row[[f"{average}/{task}" for task in tasks]].to_numpy(dtype=np.float64)


def weight_columns(trials: pd.DataFrame, tasks: Sequence[str], average: str) -> Vector:
    """Return E_t[w] of every row, shape (rows, T)."""
    return trials[[f"{average}/{task}" for task in tasks]].to_numpy(dtype=np.float64)


def complete_arms(confirm: pd.DataFrame, kinds: Sequence[str], column: str = "score_val") -> pd.DataFrame:
    """Return scores, arms in columns and seeds in rows, of the arms of these kinds that have the most seeds.

    An arm with missing seeds is left out: a mean over the seeds that succeeded would be biased.
    """
    some = confirm[confirm["kind"].isin(kinds) & confirm[column].notna()]
    if some.empty:
        return pd.DataFrame(dtype=float)
    counts = some.groupby("arm", sort=False)["seed"].nunique()
    kept = counts.index[counts == counts.max()]
    return some.pivot_table(index="seed", columns="arm", values=column, sort=False)[list(kept)].sort_index()
