"""The best epoch of each trial on validation, and the other splits at that epoch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hpo.compare import Scoring, TaskScoring, at_selected_epochs, selected_range

SCORING = Scoring({"far": TaskScoring(1), "near": TaskScoring(-1)})


def row(arm: str, epoch: float, far: float, near: float, search: bool = False, **more: Any) -> dict[str, Any]:
    kind = "single_task" if arm.startswith("single_task") else "static"
    metrics = {"val/far": far, "val/near": near, "test/far": far + 1, "test/near": near + 1}
    same = {"arm": arm, "identity": f"{arm} {search}", "kind": kind, "search": search, "status": "finished"}
    return same | {"epoch": epoch} | metrics | more


def references(far: float, near: float, search: bool = False) -> list[dict[str, Any]]:
    return [row("single_task/far", 4, far, np.nan, search), row("single_task/near", 6, np.nan, near, search)]


def selected(*rows: dict[str, Any]) -> pd.DataFrame:
    return at_selected_epochs(pd.DataFrame(rows), SCORING).set_index(["arm", "search"])


def test_the_epoch_with_the_lowest_score_counts_and_test_is_read_there():
    three = [row("static/01", 1, 2.0, 0.9), row("static/01", 2, 1.2, 0.8), row("static/01", 3, 1.0, 0.2)]
    found = selected(*references(1.0, 0.9), *three).loc[("static/01", False)]
    assert found[["epoch", "val/far", "test/far", "test/near"]].tolist() == [2, 1.2, 2.2, 1.8]


def test_the_choice_is_relative_to_the_references_of_the_same_seeds():
    two = [(1, 2.0, 0.9), (2, 1.0, 0.2)]
    rows = [row("static/01", *numbers, search=search) for search in (True, False) for numbers in two]
    found = selected(*references(1.0, 0.9, True), *references(100.0, 0.9), *rows)
    assert found["epoch"].xs("static/01").to_dict() == {True: 2, False: 1}


def test_a_study_that_counts_last_epochs_is_left_as_it_is():
    table = pd.DataFrame([row("static/01", np.nan, 1.0, 1.0), row("static/01", np.nan, 1.0, 1.0)])
    pd.testing.assert_frame_equal(at_selected_epochs(table, SCORING), table)
    assert selected_range(table) is None


def test_without_references_the_last_of_the_epochs_counts():
    found = selected(row("static/01", 1, 1.0, 1.0), row("static/01", 3, 2.0, 2.0))
    assert found["epoch"].tolist() == [3]


def test_trials_without_metrics_stay_in_the_table():
    lost = row("static/02", np.nan, np.nan, np.nan, status="diverged")
    found = selected(*references(1.0, 0.9), row("static/01", 1, 1.0, 1.0), lost)
    assert found["status"].xs("static/02").tolist() == ["diverged"]


def test_the_range_of_the_epochs():
    assert selected_range(pd.DataFrame(references(1.0, 0.9))) == (4, 6)
