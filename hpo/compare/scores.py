"""Scores: all metrics of a trial as one number, relative to networks trained on one task alone."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from hpo.compare.scoring import Scoring
from hpo.compare.trial_table import complete_arms
from hpo.core.arm import REFERENCE, Arm
from hpo.core.trial import TrialStatus

BEYOND = 10.0  # percentage points of score that one point beyond a limit costs in the search


def reference_arms(trials: pd.DataFrame, scoring: Scoring) -> dict[str, str]:
    """Return the arm of each task's single-task network, of several the best on validation.

    A tuned study trains single-task networks with several sets of the problem's arguments.
    """
    alone = trials[(trials["kind"] == REFERENCE) & (trials["status"] == TrialStatus.FINISHED)]
    by_task: dict[str, list[str]] = {}
    for arm in alone["arm"].unique():
        by_task.setdefault(Arm.parse(arm).task, []).append(str(arm))
    return {task: _best_reference(alone, task, how.direction, by_task.get(task, [])) for task, how in scoring.items()}


def _best_reference(alone: pd.DataFrame, task: str, direction: int, arms: list[str]) -> str:
    if len(arms) < 2:
        return arms[0] if arms else Arm(REFERENCE, task=task).key
    metric = complete_arms(alone[alone["arm"].isin(arms)], (REFERENCE,), f"val/{task}").mean()
    return str((metric * direction).idxmin())


def reference_metrics(trials: pd.DataFrame, scoring: Scoring, split: str) -> pd.Series:
    """Return the single-task reference b_i: the metric of the network trained on task i alone, mean over seeds.

    NaN for a task whose reference did not finish.
    """
    alone = trials[(trials["kind"] == REFERENCE) & (trials["status"] == TrialStatus.FINISHED)]
    arms = reference_arms(trials, scoring)
    means = {task: alone.loc[alone["arm"] == arm, f"{split}/{task}"].mean() for task, arm in arms.items()}
    return pd.Series(means, dtype=float)


def score(trials: pd.DataFrame, reference: pd.Series, scoring: Scoring, split: str) -> pd.Series:
    """Compute Delta_m of each trial in percent, lower is better: ``sum_i p_i c_i / sum_i p_i``.

    The change of a task is ``c_i = 100 d_i (m_i - b_i) / s_i``, and p_i its priority. With equal priorities:

    Maninis, Radosavovic, Kokkinos, "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, equation 5, with its
    sign turned. The scale s_i is |b_i| as there, unless the task says otherwise (`hpo.core.change`). ``b_i`` is a
    mean over seeds, so that the mean of the scores over seeds is the score of the mean metrics. Tasks without a
    reference are left out. Single-task trials and trials that diverged or failed have no score; a trial that was
    stopped early has the score of its last epoch.

    Args:
        trials: with columns ``<split>/<task>``.
        reference: b_i by task.
        scoring: how each task is measured, with d_i, s_i and p_i.
        split: ``val`` or ``test``.
    """
    scored = (trials["kind"] != REFERENCE) & trials["status"].isin(
        [status for status in TrialStatus if status.has_score]
    )
    return scoring.mean(changes(trials, reference, scoring, split)).where(scored)


def changes(trials: pd.DataFrame, reference: pd.Series, scoring: Scoring, split: str) -> pd.DataFrame:
    """Compute by how many percent each task of each trial is worse than its reference; see `score`."""
    return scoring.changes(metrics(trials, scoring, split), reference, reference)


def metrics(trials: pd.DataFrame, tasks: Iterable[str], split: str) -> pd.DataFrame:
    """Return the metrics of each trial on a split, one column per task; NaN where they were not measured."""
    found: pd.DataFrame = trials.reindex(columns=[f"{split}/{task}" for task in tasks])
    return found.set_axis(list(tasks), axis=1)


def scored_search(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return the trials of the search seed as `scored_validation` does, best first, those without a score last."""
    scored = scored_validation(on_search_seed(trials), scoring)
    return scored.sort_values("objective", kind="stable").reset_index(drop=True)


def scored_validation(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return the trials that read no test split with their validation ``score``, the shortlist's seeds included.

    The search chooses by ``objective``, the score and `BEYOND` times the percentage points ``beyond`` the limits. One
    seed gives no confidence, and so decides no limit; but the search looks for weights that keep them.
    """
    search = trials[trials["search"].astype(bool)].copy()
    reference = reference_metrics(search, scoring, "val")
    search["score"] = score(search, reference, scoring, "val")
    search["beyond"] = scoring.beyond(changes(search, reference, scoring, "val"))
    search["objective"] = search["score"] + BEYOND * search["beyond"]
    return search


def on_search_seed(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of the search seed, the lowest of the seeds that read no test split."""
    search: pd.DataFrame = trials[trials["search"].astype(bool)]
    found: pd.DataFrame = search[search["seed"] == search["seed"].min()]
    return found


def scored_confirm(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return the finished trials of the confirm seeds with ``score_val`` and ``score_test``."""
    confirm = trials[~trials["search"].astype(bool) & (trials["status"] == TrialStatus.FINISHED)].copy()
    for split in ("val", "test"):
        reference = reference_metrics(confirm, scoring, split)
        confirm[f"score_{split}"] = score(confirm, reference, scoring, split)
    return confirm


def generalisation_gap(confirm: pd.DataFrame, scoring: Scoring) -> pd.Series:
    """Compute by how many percent each trial is worse on test than on its own training data, as in the score.

    The change of a task is ``100 d_i (m_i(test) - m_i(train)) / s_i``, with s_i of the reference on test.

    NaN where a metric on the training split is missing.
    """
    reference = reference_metrics(confirm, scoring, "test")
    test, train = (metrics(confirm, scoring, split) for split in ("test", "train"))
    return scoring.mean(scoring.changes(test, train, reference)).where(confirm["kind"] != REFERENCE)
