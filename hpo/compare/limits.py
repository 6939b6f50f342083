"""Limits: how far a task may fall behind its single-task network in weights that are recommended."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy import stats

from hpo.compare.scores import metrics, reference_arms, reference_metrics
from hpo.compare.scoring import Scoring
from hpo.core.arm import FIXED, OUTSIDE

CONFIDENCE = 0.95  # one-sided
COLUMNS = ["arm", "kind", "task", "limit", "change", "bound", "kept"]


def limits_table(confirm: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Compare each arm with the limits, on validation, since choices are made there.

    The change of a limited task is paired by seed with its single-task network. Its upper bound over S seeds is
    one-sided, at 95%: ``mean + t_{0.95, S-1} s / sqrt(S)``. An arm keeps a limit if the bound is at most the limit.

    Args:
        confirm: trials of the confirm seeds with ``score_val``.
        scoring: the measure of each task, with its limit.

    Returns:
        ``arm, kind, task, limit, change, bound, kept``, one row for each arm and limited task; empty without limits.
        Below two seeds there is no bound, and no limit is kept.
    """
    trials = confirm[~confirm["kind"].isin(OUTSIDE) & confirm["score_val"].notna()]
    if not scoring.limits or trials.empty:
        return pd.DataFrame(columns=COLUMNS)
    changes = _paired_changes(confirm, trials, scoring)
    rows = []
    for name, group in trials.groupby("arm", sort=False):
        for task, limit in scoring.limits.items():
            mean, bound = _upper_bound(changes.loc[group.index, task])
            row = {"arm": str(name), "kind": group["kind"].iloc[0], "task": task, "limit": limit}
            rows.append(row | {"change": mean, "bound": bound, "kept": bool(bound <= limit)})
    return pd.DataFrame(rows, columns=COLUMNS)


def _paired_changes(confirm: pd.DataFrame, trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return the changes against the single-task network of the same seed, one column per task, NaN without one."""
    before = {}
    for task, arm in reference_arms(confirm, scoring).items():
        alone = confirm[confirm["arm"] == arm].set_index("seed")[f"val/{task}"]
        before[task] = trials["seed"].map(alone)
    reference = reference_metrics(confirm, scoring, "val")
    now = metrics(trials, scoring, "val")
    return scoring.changes(now, pd.DataFrame(before), reference).reindex(columns=list(scoring))


def _upper_bound(changes: pd.Series) -> tuple[float, float]:
    x = changes.dropna().to_numpy(dtype=float)
    n, mean = len(x), float(np.mean(x)) if len(x) else np.nan
    if n < 2:
        return mean, np.nan
    return mean, mean + float(stats.t.ppf(CONFIDENCE, n - 1) * x.std(ddof=1) / np.sqrt(n))


def kept_arms(limits: pd.DataFrame, scoring: Scoring) -> set[str] | None:
    """Return the arms that keep every limit; ``None`` if there is no limit."""
    if not scoring.limits:
        return None
    kept = limits.groupby("arm")["kept"].all() if len(limits) else pd.Series(dtype=bool)
    return set(kept.index[kept.astype(bool)])


def candidates(confirm: pd.DataFrame, kinds: Collection[str], kept: Collection[str] | None) -> pd.DataFrame:
    """Return the trials of the arms to choose from: those that keep the limits or, if none does, all of these kinds.

    Args:
        confirm: trials of the confirm seeds.
        kinds: kinds of arm.
        kept: of `kept_arms`.
    """
    of_kinds = confirm[confirm["kind"].isin(kinds)]
    within = of_kinds if kept is None else of_kinds[of_kinds["arm"].isin(kept)]
    return of_kinds if within.empty else within


def closest(limits: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the arm with fixed weights that misses the limits by the least in all; empty if unknown."""
    fixed = limits[limits["kind"].isin(FIXED)].dropna(subset=["bound"])
    if fixed.empty:
        return fixed
    missed = (fixed["bound"] - fixed["limit"]).clip(lower=0).groupby(fixed["arm"], sort=False).sum()
    return fixed[fixed["arm"] == missed.idxmin()]
