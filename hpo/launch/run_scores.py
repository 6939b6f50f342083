"""The scores of trials as metrics of their MLflow runs, so that the UI can sort by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from hpo.compare import Comparison
from hpo.core.trial import PlannedTrial
from hpo.study.schedule import Schedule

SEARCH = {"score": "score/val", "epoch": "score/epoch"}  # column -> metric
CONFIRM = {"score_val": "score/val", "score_test": "score/test", "epoch": "score/epoch"}

Scores = dict[str, dict[str, float]]


def scores_of(comparison: Comparison) -> Scores:
    """Return the scores of every compared trial, by identity and metric."""
    scores = _metrics(comparison.search, SEARCH)
    for identity, metrics in _metrics(comparison.confirm, CONFIRM).items():
        scores.setdefault(identity, {}).update(metrics)
    return scores


def scores_so_far(schedule: Schedule, trials: Iterable[PlannedTrial]) -> Scores:
    """Return the scores of the search's trials among these; none until the single-task references have ended.

    So most trials of a study have their score in MLflow as soon as their result, and the end of the study writes only
    those that are missing or have changed.
    """
    return _metrics(schedule.scored_search(trials), SEARCH)


def _metrics(table: pd.DataFrame, names: Mapping[str, str]) -> Scores:
    scores: Scores = {}
    for column, name in names.items():
        for identity, value in zip(table["identity"], table[column], strict=True):
            if pd.notna(value):
                scores.setdefault(identity, {})[name] = float(value)
    return scores
