"""A study over Ray whose trials are each trained by two processes, one of which is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpo.core.errors import ProblemError
from hpo.launch.restore import open_plan
from hpo.problems import load_problem
from hpo.tracking.experiment import StudyExperiment
from hpo.training.trial import run_trial
from tests.helpers.runs import Case


def test_batches_that_processes_cannot_share_are_refused_before_anything_runs(tmp_path: Path) -> None:
    case = Case(tmp_path)
    problem = {"name": "tests.helpers.rank_functions:Joined", "rows": 13}
    told = r"^resources\.workers: expected a number that divides every batch .*, got 2 for a batch of 13 examples$"
    with pytest.raises(ProblemError, match=told):
        open_plan(case.study(problem=problem, resources={"workers": 2}))


@pytest.mark.slow
def test_a_study_of_which_a_process_is_killed_is_that_of_one_process(tmp_path: Path) -> None:
    case = Case(tmp_path, name="ranks")
    problem = {"name": "tests.helpers.rank_functions:shared", "folder": str(tmp_path), "kill": 1}
    case.study(
        problem=problem,
        seeds=1,
        static={"points": 2},
        gradnorm={"recipes": ["robust"], "trials": 1},
        references=["single_task"],
        checkpoint_seconds=0,
        resources={"workers": 2, "cpu": 0.5},
    )
    finished, printed = case.run()
    assert (finished.complete, dict(finished.failed)) == (True, {})
    assert "trials in each worker: one at a time, by a training function in 2 processes" in printed
    assert (tmp_path / "killed").exists()
    records = StudyExperiment(case.uri, case.name, case.output).records()
    assert len({record.config.identity for record in records}) == len(records) > 8
    assert [record.result.resumed for record in records if record.result.resumed] in ([[8]], [[16]])
    found = load_problem(problem["name"], {})
    for record in records:
        alone = run_trial(replace(record.config, workers=1), found, repr, torch.device("cpu"))
        assert record.result.validation == pytest.approx(alone.validation, rel=1e-5)
        assert record.result.test == pytest.approx(alone.test, rel=1e-5)
        assert record.result.averages["tail"] == pytest.approx(alone.averages["tail"], rel=1e-5)
    again, _ = case.run()
    assert (again.ran, again.complete) == (0, True)
