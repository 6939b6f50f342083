"""The measure of each task, and the score that the tasks make together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from hpo.core.change import Change, scale_of

Direction = Literal[1, -1]


@dataclass(frozen=True)
class TaskScoring:
    """The measure of one task.

    Attributes:
        direction: +1 where a smaller metric is better, -1 where a larger one is.
        change: how its change against the single-task network is measured (`hpo.core.change`).
        priority: how much it counts in the score, 0 for an auxiliary task.
        limit: by how many percent it may be behind its single-task network in weights that are recommended; ``None``
            if it has no limit.
    """

    direction: Direction = 1
    change: Change = "relative"
    priority: float = 1.0
    limit: float | None = None


@dataclass(frozen=True)
class Scoring(Mapping[str, TaskScoring]):
    """The measures of a problem's tasks: a mapping from each task to its `TaskScoring`.

    Attributes:
        tasks: the same, in the problem's order.
    """

    tasks: Mapping[str, TaskScoring]

    def __getitem__(self, task: str) -> TaskScoring:
        """Return how a task is measured."""
        return self.tasks[task]

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the tasks."""
        return iter(self.tasks)

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self.tasks)

    @property
    def directions(self) -> list[int]:
        """The direction of each task."""
        return [how.direction for how in self.values()]

    @property
    def limits(self) -> dict[str, float]:
        """The limit of each task that has one."""
        return {task: how.limit for task, how in self.items() if how.limit is not None}

    def changes(
        self, now: pd.DataFrame, before: pd.DataFrame | pd.Series, reference: Mapping[str, float] | pd.Series
    ) -> pd.DataFrame:
        """Compute by how many percent each task is worse, ``100 d_i (now_i - before_i) / s_i``.

        The scale s_i is |b_i| for a relative change, 1 for an absolute one, or a number of the problem's.

        Args:
            now: metrics, one column per task.
            before: metrics to compare with, by row or the same for all.
            reference: b_i by task; a task whose reference gives no scale has no column in the result.
        """
        scales = {task: scale_of(how.change, float(reference[task])) for task, how in self.items()}
        found = {
            task: 100 * self[task].direction * (now[task] - before[task]) / scale
            for task, scale in scales.items()
            if np.isfinite(scale)
        }
        return pd.DataFrame(found, index=now.index)

    def mean(self, changes: pd.DataFrame) -> pd.Series:
        """Compute the mean of the changes over tasks, ``sum_i p_i change_i / sum_i p_i``, with the priorities p_i.

        NaN where a task that counts is missing, or if none counts.
        """
        counting = {task: how.priority for task, how in self.items() if task in changes and how.priority > 0}
        if not counting:
            return pd.Series(np.nan, index=changes.index)
        shares = pd.Series(counting) / max(counting.values())  # priorities may be large
        found: pd.Series = (changes[list(counting)] * shares).sum(axis=1, skipna=False) / shares.sum()
        return found

    def beyond(self, changes: pd.DataFrame) -> pd.Series:
        """Add up by how many percentage points the changes are beyond the limits; 0 where all are kept."""
        found = pd.Series(0.0, index=changes.index)
        for task, limit in self.limits.items():
            if task in changes:
                found += (changes[task] - limit).clip(lower=0)
        return found
