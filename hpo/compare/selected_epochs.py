"""The epoch of each trial whose metrics count, where a study takes the best one on validation."""

from __future__ import annotations

import pandas as pd

from hpo.compare.scores import reference_metrics, score
from hpo.compare.scoring import Scoring

TRIAL = ["arm", "identity"]  # arms may share a trial


def at_selected_epochs(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Keep of each trial the epoch with the lowest validation score, and read the other splits there.

    Scores are relative to the single-task references of the same phase, whose best epoch is known without a score. Of
    equal epochs the first is kept; of a trial without a score, the last.

    Args:
        trials: the table described in `hpo.compare`, with a row for each epoch of a trial that may be its best.
        scoring: how each task is measured.

    Returns:
        The same with one row per trial.
    """
    if trials["epoch"].isna().all():
        return trials
    parts = [part for _, part in trials.groupby(trials["search"].astype(bool))]
    scores = pd.concat([score(p, reference_metrics(p, scoring, "val"), scoring, "val") for p in parts])
    ranked = scores.reindex(trials.index).fillna(-trials["epoch"]).fillna(0)
    best = ranked.groupby([trials[column] for column in TRIAL], sort=False).idxmin()
    return trials.loc[sorted(best)].reset_index(drop=True)


def selected_range(trials: pd.DataFrame) -> tuple[int, int] | None:
    """Return the earliest and the latest epoch that was selected; ``None`` if the last one of each trial counts."""
    known = trials["epoch"].dropna() if "epoch" in trials else pd.Series(dtype=float)
    return None if known.empty else (int(known.min()), int(known.max()))
