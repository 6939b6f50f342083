"""The epochs of a trial that may be its best one, which `select: best` keeps while the trial runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpo.core.trial import EpochMetrics


def with_epoch(
    best_epochs: Sequence[EpochMetrics], found: EpochMetrics, directions: Mapping[str, int]
) -> list[EpochMetrics]:
    """Return the epochs that may be the best after one more epoch.

    They are those whose validation no other epoch equals or beats on every task. A score is a sum over tasks of terms
    that grow as the metric gets worse, whatever the single-task references and the priorities are: the epoch with the
    lowest score is always among them, and a trial finds them without the results of another. A network of one task
    has only one, its best so far.

    Args:
        best_epochs: so far, ascending.
        found: the next epoch.
        directions: for each task that is trained +1 (minimize) or -1 (maximize).

    >>> one, two = EpochMetrics(1, {"a": 2.0, "b": 1.0}), EpochMetrics(2, {"a": 1.0, "b": 1.0})
    >>> [[kept.epoch for kept in with_epoch([one], two, {"a": a, "b": 1})] for a in (1, -1)]
    [[2], [1]]
    """
    if any(_equals_or_beats(one, found, directions) for one in best_epochs):
        return list(best_epochs)
    return [*(one for one in best_epochs if not _equals_or_beats(found, one, directions)), found]


def _equals_or_beats(one: EpochMetrics, other: EpochMetrics, directions: Mapping[str, int]) -> bool:
    return all(d * one.validation[task] <= d * other.validation[task] for task, d in directions.items())
