"""Scores by brute force."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.compare import Scoring, TaskScoring, compare, reference_metrics, score
from tests.helpers.compare_tables import NAN, SCORING, arm, arms_by_name, compared, references, row
from tests.helpers.report_builder import Builder

metric = st.floats(0.1, 10)


def measured(directions: Mapping[str, int]) -> Scoring:
    return Scoring({task: TaskScoring(direction) for task, direction in directions.items()})


@given(
    st.lists(st.tuples(metric, metric, metric), min_size=1, max_size=6),
    st.tuples(metric, metric, metric),
    st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_score_by_brute_force(
    rows: list[tuple[float, ...]], reference: tuple[float, ...], signs: tuple[int, ...]
) -> None:
    tasks = ["a", "b", "c"]
    trials = pd.DataFrame(rows, columns=[f"val/{task}" for task in tasks]).assign(kind="static", status="finished")
    found = score(trials, pd.Series(reference, index=tasks), measured(dict(zip(tasks, signs, strict=True))), "val")
    for k, metrics in enumerate(rows):
        changes = [d * (m - b) / b for m, b, d in zip(metrics, reference, signs, strict=True)]
        assert found[k] == pytest.approx(100 * sum(changes) / 3)


def test_score_of_a_negative_reference() -> None:
    trials = pd.DataFrame({"val/a": [-4.0], "kind": ["static"], "status": ["finished"]})
    assert score(trials, pd.Series({"a": -2.0}), measured({"a": 1}), "val").tolist() == [
        -100.0
    ]  # lower is better, twice as low


def test_score_does_not_depend_on_the_units_of_a_metric() -> None:
    trials = Builder(seeds=2, points=4).trials()
    scoring = Builder().scoring
    scaled = trials.assign(**{f"{split}/age": 365 * trials[f"{split}/age"] for split in ("val", "test")})
    one, two = compare(trials, scoring, 1.0), compare(scaled, scoring, 1.0)
    np.testing.assert_allclose(one.arms["score_test"], two.arms["score_test"])
    assert list(one.arms["arm"]) == list(two.arms["arm"])


def test_score_and_baseline_are_means_over_seeds() -> None:
    trials = pd.DataFrame(references(2))
    trials.loc[trials["arm"] == "single_task/error", "val/error"] = [4.0, 1.0, 3.0]
    confirm = trials[trials["phase"] == "confirm"]
    assert reference_metrics(confirm, SCORING, "val").to_dict() == {"error": 2.0, "accuracy": 1.0}


def test_who_has_no_score() -> None:
    diverged = row("static/01", 1, -50.0, -50.0, status="diverged")
    blind = row("static/02", 1, -50.0, -50.0, **{"val/error": NAN})
    comparison = compared([diverged, blind], arm("equal", [1.0], [1.0]), seeds=1)
    assert comparison.confirm.set_index("arm")["score_val"].dropna().to_dict() == pytest.approx({"equal": 1.0})
    assert "static/01" not in set(comparison.arms["arm"])


def test_the_search_is_sorted_and_keeps_those_without_a_score_last() -> None:
    rows = [row(n, 0, v) for n, v in {"equal": 2.0, "static/01": NAN, "static/02": -1.0}.items()]
    search = compared(rows).search
    assert list(search["arm"])[:2] == ["static/02", "equal"]
    assert search["score"].iloc[:2].tolist() == pytest.approx([-1.0, 2.0])
    assert search["score"].iloc[2:].isna().all()


def test_the_gap_between_train_and_test_by_hand() -> None:
    train = {"train/error": 0.5, "train/accuracy": 0.99}
    rows = arm(
        "static/01", [0.0] * 3, [10.0, 20.0, 30.0], **train
    )  # on test: error 1.1, 1.2, 1.3; accuracy 0.9 .. 0.7
    found = arms_by_name(compared(rows))["static/01"]
    gaps = [100 * ((1 + t - 0.5) / 1 + -(1 - t - 0.99) / 1) / 2 for t in (0.1, 0.2, 0.3)]
    assert found["gap"] == pytest.approx(np.mean(gaps))


def test_the_gap_is_relative_to_the_single_task_reference_on_test() -> None:
    trials = pd.DataFrame([*references(2), *arm("equal", [0.0] * 2, [0.0] * 2)])
    trials = trials.assign(**{"train/error": 3.0, "train/accuracy": 0.5})
    alone = trials["arm"] == "single_task/error"
    trials.loc[alone & (trials["phase"] == "confirm"), "test/error"] = [4.0, 6.0]
    found = arms_by_name(compare(trials, SCORING, 1.0))["equal"]
    assert found["gap"] == pytest.approx(100 * ((1 - 3) / 5 - (1 - 0.5) / 1) / 2)


def test_no_gap_without_metrics_on_train() -> None:
    rows = arm("equal", [0.0] * 3, [0.0] * 3)
    assert np.isnan(arms_by_name(compared(rows))["equal"]["gap"])
    half = arm("equal", [0.0] * 3, [0.0] * 3, **{"train/error": 1.0, "train/accuracy": NAN})
    assert np.isnan(arms_by_name(compared(half))["equal"]["gap"])
