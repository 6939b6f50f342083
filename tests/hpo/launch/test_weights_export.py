"""The weights file: what it says, what it refuses, and that production reads back what was trained."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from balancers import Static
from hpo.compare import Comparison, compare, interval
from hpo.core.errors import ExportError
from hpo.core.files import write_whole
from hpo.launch.weights_export import PACKAGES, weights_content, write_weights
from hpo.study.plan import Plan
from tests.helpers.small_problem import TASKS
from tests.helpers.studies import Study, of_method, small


@cache
def finished() -> tuple[Study, Comparison]:
    """A whole study of made-up results, and what it found."""
    study = Study(small(seeds=3))
    schedule = study.schedule()
    study.drive(schedule, 3)
    return study, compare(schedule.table(), study.plan.scoring, 1.0)


def content(arm: str | None = None) -> dict[str, Any]:
    study, comparison = finished()
    return weights_content(study.plan, comparison, arm, {identity: f"run-{identity}" for identity in study.results})


def trained_weights(arm: str) -> dict[str, float]:
    study, _ = finished()
    return next(dict(p.config.settings["weights"]) for p in study.handed if p.arm == arm and p.phase == "confirm")


def test_the_recommended_arm_unless_one_is_named() -> None:
    _, comparison = finished()
    found = content()
    assert (found["arm"], found["recommended"]) == (comparison.recommended, True)
    assert content(comparison.recommended)["weights"] == found["weights"]
    assert content("frozen/loss")["recommended"] is False


def test_the_content_of_the_file() -> None:
    _, comparison = finished()
    found = content("gradnorm_static/robust/tail")
    trials = comparison.confirm[comparison.confirm["arm"] == "gradnorm_static/robust/tail"]
    best = comparison.ranks.set_index("recipe").loc["robust", "alpha"]
    assert (found["schema"], found["version"]) == ("gradsweep.weights", 1)
    assert (found["study"], found["tasks"], found["method"]) == ("small", list(TASKS), "gradnorm_static")
    assert (found["recipe"], found["average"], found["alpha"]) == ("robust", "tail", best)
    assert found["seeds"] == [1, 2, 3]
    assert found["runs"] == [f"run-{identity}" for identity in trials["identity"]]
    assert found["problem"] == {"name": "small", "arguments": {"size": 3}, "data_hash": "small"}
    assert set(found["packages"]) == set(PACKAGES)
    assert found["packages"]["torch"] == torch.__version__
    age = datetime.now(UTC) - datetime.fromisoformat(found["created"])
    assert 0 <= age.total_seconds() < 60
    for split, column in (("validation", "val"), ("test", "test")):
        oracle = interval(trials[f"score_{column}"])
        assert found["score"][split] == pytest.approx({"mean": oracle.mean, "low": oracle.low, "high": oracle.high})
        metric = found["metrics"][split]["far"]
        assert metric["metric"] == "MSE"
        assert metric["mean"] == pytest.approx(trials[f"{column}/far"].mean())
        assert metric["low"] < metric["mean"] < metric["high"]


def test_weights_have_six_digits_and_sum_to_the_number_of_tasks() -> None:
    _, comparison = finished()
    for arm in comparison.arms.query("kind in ['static', 'frozen', 'equal', 'gradnorm_static']")["arm"]:
        weights = content(arm)["weights"]
        assert all(w == float(f"{w:.6g}") for w in weights.values())
        assert sum(weights.values()) == pytest.approx(3, rel=1e-5)


@pytest.mark.parametrize("arm", ["gradnorm_static/paper/tail", "gradnorm_static/robust/arithmetic"])
def test_production_loads_the_weights_that_were_trained(tmp_path: Path, arm: str) -> None:
    write_weights(tmp_path / "weights.json", content(arm))
    loaded = Static.load(tmp_path / "weights.json", tasks=["tiny", "near", "far"])
    trained = Static(["tiny", "near", "far"], trained_weights(arm))
    torch.testing.assert_close(loaded.weights, trained.weights, rtol=2e-6, atol=0)


def test_a_static_arm_of_the_search(tmp_path: Path) -> None:
    _, comparison = finished()
    arm = str(comparison.arms.query("kind == 'static'")["arm"].iloc[0])
    found = content(arm)
    assert (found["recipe"], found["average"], found["alpha"]) == (None, None, None)
    assert found["weights"] == pytest.approx(trained_weights(arm), rel=2e-6)
    assert content("equal")["weights"] == dict.fromkeys(TASKS, 1.0)


def test_a_frozen_arm_is_the_geometric_mean_over_seeds() -> None:
    study, _ = finished()
    schedule = study.schedule(run=False)
    table = schedule.table()
    rows = np.array([[0.3, 0.9, 1.8], [0.6, 1.2, 1.2], [0.1, 0.1, 2.8]])
    frozen = (table["arm"] == "frozen/gradient") & (table["phase"] == "confirm")
    table.loc[frozen, [f"geometric/{task}" for task in TASKS]] = rows
    comparison = compare(table, study.plan.scoring, 1.0)
    mean = rows.prod(axis=0) ** (1 / 3)
    found = weights_content(study.plan, comparison, "frozen/gradient", {})
    assert list(found["weights"].values()) == pytest.approx((3 * mean / mean.sum()).tolist(), rel=1e-5)
    assert found["runs"] == []


@pytest.mark.parametrize("arm", ["gradnorm/robust/alpha=0.5", "uncertainty", "single_task/near", "static/77", "best"])
def test_arms_without_fixed_weights_are_refused(arm: str) -> None:
    _, comparison = finished()
    with pytest.raises(ExportError) as caught:
        content(arm)
    message = str(caught.value)
    assert message.startswith("--arm: expected ")
    assert message.endswith(f", got {arm!r}")
    allowed = message.removeprefix("--arm: expected ").rpartition(", got ")[0].split(", ")
    assert comparison.recommended in allowed
    assert {"equal", "frozen/loss", "frozen/gradient", "gradnorm_static/paper/tail"} <= set(allowed)
    assert not [name for name in allowed if name.startswith(("gradnorm/", "uncertainty", "single_task"))]


def nothing_finished() -> tuple[Plan, Comparison]:
    plan = small()
    return plan, compare(Study(plan).schedule().table(), plan.scoring, 1.0)


def test_a_study_without_confirmed_arms_exports_nothing() -> None:
    plan, comparison = nothing_finished()
    with pytest.raises(ExportError, match="no arm with fixed weights has finished the confirm phase"):
        weights_content(plan, comparison, None, {})
    with pytest.raises(ExportError, match="--arm: expected a trial that has ended first, got 'equal'"):
        weights_content(plan, comparison, "equal", {})


def test_a_study_without_references_has_weights_by_name_but_none_to_recommend() -> None:
    study = Study(small(), of_method("single_task"))
    schedule = study.schedule()
    study.drive(schedule, 3)
    comparison = compare(schedule.table(), study.plan.scoring, 1.0)
    with pytest.raises(ExportError, match="no arm with fixed weights"):
        weights_content(study.plan, comparison, None, {})
    found = weights_content(study.plan, comparison, "equal", {})
    assert found["score"]["test"] == {"mean": None, "low": None, "high": None}


def test_one_seed_has_a_mean_and_no_interval() -> None:
    study = Study(small(seeds=1))
    schedule = study.schedule()
    study.drive(schedule, 3)
    comparison = compare(schedule.table(), study.plan.scoring, 1.0)
    found = weights_content(study.plan, comparison, None, {})["score"]["test"]
    assert found["mean"] == pytest.approx(comparison.arms.query("recommended")["score_test"].item())
    assert (found["low"], found["high"]) == (None, None)


def test_a_file_is_json_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "weights.json"
    made = content()
    write_weights(path, made)
    assert json.loads(path.read_text(encoding="utf-8")) == made
    write_weights(path, content("equal"))
    assert json.loads(path.read_text(encoding="utf-8"))["arm"] == "equal"
    assert [file.name for file in path.parent.iterdir()] == ["weights.json"]


def test_a_reader_of_the_old_file_never_sees_half_of_the_new(tmp_path: Path) -> None:
    write_whole(tmp_path / "weights.json", "before")
    with (tmp_path / "weights.json").open(encoding="utf-8") as reader:
        write_whole(tmp_path / "weights.json", "after it")
        assert reader.read() == "before"
    assert (tmp_path / "weights.json").read_text(encoding="utf-8") == "after it"


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    write_whole(path, "before")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_weights(path, {"weights": float("nan")})
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["weights.json"]
