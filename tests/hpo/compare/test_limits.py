"""Limits decide who may be recommended, with confidence, on validation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hpo.compare import Scoring, TaskScoring, compare
from hpo.compare.limits import limits_table
from hpo.compare.scores import scored_confirm
from tests.helpers.compare_tables import arms_by_name, compared, references, row

LIMITED = Scoring({"error": TaskScoring(1, limit=2.0), "accuracy": TaskScoring(-1)})


def two_sided(name: str, error: Sequence[float], accuracy: float) -> list[dict[str, Any]]:
    """Trials whose error is so many percent worse, seed by seed, and whose accuracy is."""
    return [
        row(name, seed, 0.0, 0.0)
        | {f"{split}/error": 1 + worse / 100 for split in ("val", "test")}
        | {f"{split}/accuracy": 1 - accuracy / 100 for split in ("val", "test")}
        for seed, worse in enumerate(error, 1)
    ]


SAFE = two_sided("static/01", [1.0, 1.1, 0.9], 0.0)
UNSURE = two_sided("static/02", [1.8, 0.2, 2.2], -20.0)  # below 2 on average, not with confidence
FAR = two_sided("equal", [5.0, 5.1, 4.9], -40.0)


def test_the_bound_is_one_sided_and_paired_by_seed() -> None:
    trials = pd.DataFrame([*references(3), *UNSURE])
    trials.loc[trials["arm"] == "single_task/error", "val/error"] = [1.0, 0.9, 1.0, 1.1]  # the first of the search
    (found,) = limits_table(scored_confirm(trials, LIMITED), LIMITED).to_dict("records")
    changes = 100 * (np.array([1.018, 1.002, 1.022]) - [0.9, 1.0, 1.1])  # the mean of the references is 1
    bound = stats.ttest_1samp(changes, 0, alternative="less").confidence_interval(0.95).high
    assert (found["change"], found["bound"]) == pytest.approx((changes.mean(), bound))
    assert not found["kept"]


def test_the_best_arm_that_keeps_the_limits_is_recommended() -> None:
    free, limited = compared(SAFE, UNSURE, FAR), compared(SAFE, UNSURE, FAR, scoring=LIMITED)
    assert (free.recommended, free.winner.arm, free.verdict.static) == ("equal", "equal", "equal")
    assert (limited.recommended, limited.winner.arm, limited.verdict.static) == ("static/01",) * 3
    assert {arm: found["misses"] for arm, found in arms_by_name(limited).items() if "single" not in arm} == {
        "static/01": "",
        "static/02": "error",
        "equal": "error",
    }
    assert not [alarm for alarm in limited.alarms if "limits" in alarm or "validation and test disagree" in alarm]
    assert free.limits.empty


def test_limits_that_nothing_meets_are_told_with_what_comes_closest() -> None:
    found = compared(UNSURE, FAR, scoring=LIMITED)
    assert (found.recommended, found.misses("equal")) == ("equal", ("error",))
    (alarm,) = [alarm for alarm in found.alarms if "limits" in alarm]
    assert alarm.startswith("no fixed weights keep the limits with 95% confidence on validation (error at most 2%")
    assert "static/02 comes closest (error up to 3.2%)" in alarm
    assert alarm.endswith("equal has the best score of all")


@pytest.mark.parametrize(("ours", "missing"), [([9.0] * 3, "GradNorm"), ([0.0] * 3, "static")])
def test_an_arm_that_keeps_the_limits_is_not_compared_with_one_that_does_not(ours: list[float], missing: str) -> None:
    run = two_sided("gradnorm/paper/alpha=1", ours, -50.0)
    static = SAFE if missing == "GradNorm" else FAR
    found = compared(static, run, scoring=LIMITED).verdict
    assert (found.kind, found.reason) == ("none", f"no {missing} arm keeps the limits")
    assert (
        compared(FAR, two_sided("gradnorm/paper/alpha=1", [9.0] * 3, -50.0), scoring=LIMITED).verdict.kind != "none"
    )


def test_one_seed_gives_no_confidence() -> None:
    found = compared(two_sided("equal", [-9.0], 0.0), seeds=1, scoring=LIMITED)
    assert found.misses("equal") == ("error",)
    assert any("fewer than two seeds give no confidence" in alarm for alarm in found.alarms)


def test_the_search_looks_for_weights_that_keep_the_limits() -> None:
    def point(name: str, error: float, accuracy: float) -> dict[str, Any]:
        return row(name, 0) | {"val/error": 1 + error / 100, "val/accuracy": 1 - accuracy / 100}

    rows = [point("static/01", 1.0, -5.0), point("static/02", 4.0, -20.0), point("equal", 2.5, 0.0)]
    trials = pd.DataFrame([*references(0), *rows])
    assert list(compare(trials, LIMITED, 1.0).search["arm"])[:3] == ["static/01", "equal", "static/02"]


def test_a_limit_holds_for_an_auxiliary_task_too() -> None:
    scoring = Scoring({"error": TaskScoring(1, priority=0.0, limit=2.0), "accuracy": TaskScoring(-1)})
    found = compared(SAFE, FAR, scoring=scoring)
    assert found.recommended == "static/01"
    assert arms_by_name(found)["equal"]["score_test"] == pytest.approx(-40.0)
