"""A study of a training function over Ray and MLflow, one of whose workers is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpo.launch.restore import open_plan
from hpo.problems import load_problem
from hpo.tracking.experiment import StudyExperiment
from hpo.training.trial import run_trial
from tests.helpers.runs import Case

pytestmark = pytest.mark.slow


def test_a_study_of_a_function_whose_worker_is_killed_is_that_of_one_process(tmp_path: Path) -> None:
    case = Case(tmp_path, name="functions", workers=1)
    problem = {"name": "tests.helpers.training_functions:killed_once", "folder": str(tmp_path)}
    case.study(problem=problem, seeds=1, search={"halving": 2}, checkpoint_seconds=0)
    finished, printed = case.run()
    assert (finished.complete, dict(finished.failed)) == (True, {})
    assert "trials in each worker: one at a time, by a training function" in printed
    assert (tmp_path / "killed").exists()
    records = StudyExperiment(case.uri, case.name, case.output).records()
    assert len({record.config.identity for record in records}) == len(records) > 12
    assert {record.result.status.value for record in records} == {"finished", "stopped"}
    found = load_problem(problem["name"], open_plan(tmp_path / "study.yaml").study.problem.arguments)
    alone = [record for record in records if record.result.status == "finished"]
    assert any(record.result.resumed for record in records)
    for record in alone:
        expected = run_trial(record.config, found, repr, torch.device("cpu"))
        assert record.result.validation == pytest.approx(expected.validation, rel=1e-9)
        assert record.result.test == pytest.approx(expected.test, rel=1e-9)
        assert record.result.averages["tail"] == pytest.approx(expected.averages["tail"], rel=1e-9)
    again, _ = case.run()
    assert (again.ran, again.complete) == (0, True)


def test_a_trial_in_lightning_whose_worker_is_killed_goes_on_from_lightnings_checkpoint(tmp_path: Path) -> None:
    case = Case(tmp_path, name="lightning", workers=1)
    problem = {"name": "tests.helpers.lightning_trials:killed_once", "folder": str(tmp_path)}
    off = {"gradnorm": "off", "confirm": {"top_static": 1}}
    case.study(problem=problem, seeds=1, static={"points": 2}, checkpoint_seconds=0, **off)
    finished, _ = case.run()
    assert (finished.complete, dict(finished.failed)) == (True, {})
    records = StudyExperiment(case.uri, case.name, case.output).records()
    (killed,) = [record for record in records if record.result.resumed]
    found = load_problem(problem["name"], open_plan(tmp_path / "study.yaml").study.problem.arguments)
    expected = run_trial(killed.config, found, repr, torch.device("cpu"))
    assert killed.result.resumed == [8]
    assert killed.result.validation == pytest.approx(expected.validation, rel=1e-9)
    assert killed.result.averages["tail"] == pytest.approx(expected.averages["tail"], rel=1e-9)
