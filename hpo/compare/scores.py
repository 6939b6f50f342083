"""Scores: metrics of many units made one number, relative to networks trained on one task alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hpo.core.arm import REFERENCE, Arm
from hpo.core.trial import TrialStatus


def reference_metrics(trials: pd.DataFrame, tasks: Sequence[str], split: str) -> pd.Series:
    """The single-task reference b_i: for each task the metric of the network trained on it alone, mean over seeds.

    NaN for a task whose reference did not finish.
    """
    alone = trials[(trials["kind"] == REFERENCE) & (trials["status"] == TrialStatus.FINISHED)]
    means = {
        task: alone.loc[alone["arm"] == Arm(REFERENCE, task=task).key, f"{split}/{task}"].mean() for task in tasks
    }
    return pd.Series(means, dtype=float)


def score(trials: pd.DataFrame, reference: pd.Series, directions: Mapping[str, int], split: str) -> pd.Series:
    """Delta_m of each trial in percent, lower is better: ``100 / T sum_i d_i (m_i - b_i) / |b_i|``.

    Maninis, Radosavovic, Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, equation 5, with its
    sign turned. ``b_i`` is a mean over seeds, so that the mean of the scores over seeds is the score of the mean
    metrics: per-task mean first, then over tasks. Tasks without a reference are left out; single-task trials and
    trials that diverged or failed have no score. One that was stopped early has that of its last epoch.

    Args:
        trials: with columns ``<split>/<task>``.
        reference: b_i by task.
        directions: d_i by task, +1 or -1.
        split: ``val`` or ``test``.
    """
    known = [task for task in directions if np.isfinite(reference[task]) and reference[task] != 0]
    scored = (trials["kind"] != REFERENCE) & trials["status"].isin(
        [status for status in TrialStatus if status.has_score]
    )
    if not known:
        return pd.Series(np.nan, index=trials.index)
    change = [
        directions[task] * (trials[f"{split}/{task}"] - reference[task]) / abs(reference[task]) for task in known
    ]
    delta: pd.Series = 100 * pd.concat(change, axis=1).mean(axis=1, skipna=False)
    return delta.where(scored)


def scored_search(trials: pd.DataFrame, directions: Mapping[str, int]) -> pd.DataFrame:
    """The trials of the search seed with their validation ``score``, best first, those without one last."""
    scored = scored_validation(on_search_seed(trials), directions)
    return scored.sort_values("score", kind="stable").reset_index(drop=True)


def scored_validation(trials: pd.DataFrame, directions: Mapping[str, int]) -> pd.DataFrame:
    """The trials that read no test split with their validation ``score``, those of the shortlist's seeds too."""
    search = trials[trials["search"].astype(bool)].copy()
    search["score"] = score(search, reference_metrics(search, tuple(directions), "val"), directions, "val")
    return search


def on_search_seed(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of the search seed: of the seeds that read no test split it is the lowest."""
    search: pd.DataFrame = trials[trials["search"].astype(bool)]
    found: pd.DataFrame = search[search["seed"] == search["seed"].min()]
    return found


def scored_confirm(trials: pd.DataFrame, directions: Mapping[str, int]) -> pd.DataFrame:
    """The finished trials of the confirm seeds with ``score_val`` and ``score_test``."""
    confirm = trials[~trials["search"].astype(bool) & (trials["status"] == TrialStatus.FINISHED)].copy()
    for split in ("val", "test"):
        reference = reference_metrics(confirm, tuple(directions), split)
        confirm[f"score_{split}"] = score(confirm, reference, directions, split)
    return confirm


def generalisation_gap(confirm: pd.DataFrame, directions: Mapping[str, int]) -> pd.Series:
    """How much worse each trial is on test than on its own training data, in percent, by the score's formula:
    ``100 / T sum_i d_i (m_i(test) - m_i(train)) / |b_i|`` with b_i the single-task reference on test.

    NaN where a metric on the training split is missing.
    """
    reference = reference_metrics(confirm, tuple(directions), "test")
    known = [task for task in directions if np.isfinite(reference[task]) and reference[task] != 0]
    if not known or any(f"train/{task}" not in confirm for task in known):
        return pd.Series(np.nan, index=confirm.index)
    gaps = [
        directions[task] * (confirm[f"test/{task}"] - confirm[f"train/{task}"]) / abs(reference[task])
        for task in known
    ]
    gap: pd.Series = 100 * pd.concat(gaps, axis=1).mean(axis=1, skipna=False)
    return gap.where(confirm["kind"] != REFERENCE)
