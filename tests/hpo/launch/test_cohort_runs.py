"""Studies whose trials are trained at once, over Ray and MLflow, against each trial trained by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from hpo.core.trial import EpochReport
from hpo.launch.restore import open_plan
from hpo.problems import load_problem
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.run_format import epoch_metrics, result_metrics
from hpo.training.trial import run_trial
from tests.helpers.runs import Case, assert_complete

pytestmark = pytest.mark.slow
METRICS = ("final_val/near", "final_val/far off", "mean_w_tail/near", "test/near", "val/near", "steps")


def check_same(case: Case) -> None:
    """Each trial of the study has in MLflow what it has in this process by itself, without Ray."""
    plan = open_plan(case.folder / "study.yaml")
    problem = load_problem(plan.study.problem.name, plan.study.problem.arguments)
    runs = {run.info.run_id: run for run in case.runs()}
    records = StudyExperiment(case.uri, case.name, case.output).records()
    fixed = [record for record in records if record.config.method != "gradnorm"]  # its weights magnify rounding
    assert len(records) == len(runs)
    assert len(fixed) > 12
    for record in fixed:
        reports: list[EpochReport] = []
        result = run_trial(record.config, problem, reports.append, torch.device("cpu"))
        metrics = [*epoch_metrics(reports[-1], 0), *result_metrics(result, 0)]
        expected = {metric.key: metric.value for metric in metrics}
        found = runs[record.run_id].data.metrics
        for name in METRICS:
            wanted = expected.get(name)
            assert found.get(name) == (wanted and pytest.approx(wanted, rel=1e-3)), (record.config, name)


def test_a_study_in_cohorts_one_of_which_is_killed(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.study(cohort=8)
    case.steer(kill=[5])
    finished, printed = case.run()
    assert finished.complete
    assert (finished.failed, finished.diverged, finished.ran) == ({}, {}, 23)
    assert "one after another" not in printed
    assert "worker died" in printed
    runs = case.runs()
    assert_complete(runs)
    check_same(case)
    together = [int(run.data.tags["gradsweep.together"]) for run in runs]
    assert max(together) > 2
    assert min(together) >= 1
    assert finished.report.exists()
    again, printed = case.run()
    assert (again.ran, again.complete) == (0, True)


def test_a_network_that_cannot_be_stacked_is_trained_one_trial_after_another(tmp_path: Path) -> None:
    case = Case(tmp_path, workers=1)
    problem = {"name": "tests.helpers.problems:Branching", "folder": str(tmp_path)}
    case.study(cohort=8, problem=problem)
    finished, printed = case.run()
    assert finished.complete
    runs = case.runs()
    assert_complete(runs)
    check_same(case)
    assert {run.data.tags["gradsweep.together"] for run in runs} == {"1"}
    assert "trials of a cohort are trained one after another: its training step cannot be vectorised: " in printed


def test_by_default_the_size_of_cohorts_is_measured_and_printed(tmp_path: Path) -> None:
    case = Case(tmp_path, workers=1)
    references = ["single_task", "equal", "famo"]  # the last one cannot be trained at once, which must not matter
    case.study(cohort="auto", static={"points": 12}, references=references)
    finished, printed = case.run()
    assert finished.complete
    assert_complete(case.runs(), 35)
    said = r"^trials in each worker: (\d+ at once|one at a time, since trials at once would gain little) \("
    assert re.search(said, printed, re.MULTILINE)
