"""The measures of tasks and the score that they make, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hpo.compare import Scoring, TaskScoring
from hpo.core.change import Change

NOW = pd.DataFrame({"a": [0.6, 0.2]})


@pytest.mark.parametrize(
    ("change", "reference", "expected"),
    [
        ("relative", 0.5, [-20.0, 60.0]),
        ("relative", -0.5, [-220.0, -140.0]),
        ("absolute", 0.5, [-10.0, 30.0]),
        ("absolute", 0.0, [-60.0, -20.0]),
        (5.0, 0.5, [-2.0, 6.0]),
        (5, 0.0, [-12.0, -4.0]),
    ],
)
def test_the_change_of_a_metric_that_should_be_large(change: Change, reference: float, expected: list[float]) -> None:
    found = Scoring({"a": TaskScoring(-1, change)}).changes(NOW, pd.Series({"a": reference}), {"a": reference})
    assert found["a"].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("change", "reference"), [("relative", 0.0), ("relative", np.nan), ("absolute", np.nan)])
def test_a_reference_that_gives_no_scale_leaves_the_task_out(change: Change, reference: float) -> None:
    scoring = Scoring({"a": TaskScoring(1, change)})
    found = scoring.changes(NOW, pd.Series({"a": reference}), {"a": reference})
    assert list(found) == []
    assert scoring.mean(found).isna().all()


CHANGES = pd.DataFrame({"a": [10.0, -2.0], "b": [0.0, 8.0], "c": [np.nan, np.nan]})


@pytest.mark.parametrize(
    ("priorities", "expected"),
    [
        ((1, 1, 0), [5.0, 3.0]),
        ((3, 1, 0), [7.5, 0.5]),
        ((0, 2, 0), [0.0, 8.0]),
        ((1e300, 1e300, 0), [5.0, 3.0]),
        ((1, 1, 1), [np.nan, np.nan]),  # a task that counts was not measured
        ((0, 0, 0), [np.nan, np.nan]),
    ],
)
def test_the_score_is_the_mean_by_priorities(priorities: tuple[float, ...], expected: list[float]) -> None:
    scoring = Scoring({task: TaskScoring(priority=p) for task, p in zip("abc", priorities, strict=True)})
    np.testing.assert_allclose(scoring.mean(CHANGES), expected)


def test_points_beyond_the_limits_add_up() -> None:
    scoring = Scoring({"a": TaskScoring(limit=2.0), "b": TaskScoring(limit=5.0), "c": TaskScoring()})
    assert scoring.beyond(CHANGES).tolist() == [8.0, 3.0]
