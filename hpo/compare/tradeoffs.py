"""Changes of each task by arm and by static point, from which other priorities choose."""

from __future__ import annotations

import pandas as pd

from hpo.compare.limits import candidates
from hpo.compare.scores import BEYOND, changes, reference_metrics
from hpo.compare.scoring import Scoring
from hpo.compare.weight_distances import mean_weights
from hpo.core.arm import FIXED
from hpo.core.trial import TrialStatus


def arm_tradeoffs(confirm: pd.DataFrame, scoring: Scoring, kept: set[str] | None) -> pd.DataFrame:
    """Return the mean change of each task on validation, over seeds, for the arms that may be recommended.

    The score of an arm with any priorities is their weighted mean.

    Args:
        confirm: trials of the confirm seeds.
        scoring: the measure of each task.
        kept: the arms that keep the limits; ``None`` without limits.

    Returns:
        ``arm, change/<task>, w/<task>, added``; arms with missing seeds are left out, tasks without a reference too.
        ``added`` to a score ranks it, and is 0 for arms.
    """
    found = _with_changes(confirm, candidates(confirm, FIXED, kept), scoring)
    counts = found["arm"].value_counts()
    whole = found[found["arm"].map(counts) == counts.max()] if len(found) else found
    return _table(whole.assign(added=0.0), scoring)


def point_tradeoffs(search: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return the same for the trials with fixed weights of the search seed, whether confirmed or not.

    ``added`` is larger than 0 where a trial is beyond the limits, as in the search's own choices.
    """
    fixed = search[search["kind"].isin(FIXED) & (search["status"] == TrialStatus.FINISHED)]
    found = _with_changes(search, fixed.drop_duplicates("arm"), scoring)
    return _table(found.assign(added=BEYOND * found["beyond"]), scoring)


def _with_changes(trials: pd.DataFrame, chosen: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Add ``change/<task>`` to trials, without those that lack one."""
    by_task = changes(chosen, reference_metrics(trials, scoring, "val"), scoring, "val")
    return chosen.join(by_task.add_prefix("change/")).dropna(subset=[f"change/{task}" for task in by_task])


def _table(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    columns = [str(column) for column in trials if str(column).startswith("change/")]
    means = trials.groupby("arm", sort=False)[[*columns, "added"]].mean()
    w = mean_weights(trials, tuple(scoring))
    return means.join(w).reset_index()[["arm", *columns, *w, "added"]]
