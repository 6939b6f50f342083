"""Studies whose trials are trained at once, over Ray and MLflow, against the same study one trial at a time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mlflow.entities import Run

from tests.hpo.runs_for_tests import Case, assert_complete

pytestmark = pytest.mark.slow
METRICS = ("final_val/near", "final_val/far off", "mean_w_tail/near", "test/near", "val/near", "steps")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """The study, one trial at a time."""
    case = Case(tmp_path_factory.mktemp("alone"))
    case.study()
    finished, _ = case.run()
    assert finished.complete
    return case


def by_identity(runs: list[Run]) -> dict[str, Run]:
    return {run.data.tags["gradsweep.identity"]: run for run in runs}


def check_same(found: list[Run], expected: list[Run]) -> None:
    """The trials of a study, each with its own run, and in it what it would have alone.

    The folder, an argument of the problem, is part of a trial's identity, so that names pair them.
    """
    one, other = ({run.info.run_name: run for run in runs} for runs in (found, expected))
    fixed = [name for name in other if "gradnorm" not in name and "tail" not in name]  # others hang on Optuna
    assert fixed
    for name in fixed:
        for metric in METRICS:
            wanted = other[name].data.metrics.get(metric)
            assert one[name].data.metrics.get(metric) == (wanted and pytest.approx(wanted, rel=1e-3)), (name, metric)


def test_a_study_in_cohorts_one_of_which_is_killed(alone: Case, tmp_path: Path) -> None:
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
    check_same(runs, alone.runs())
    together = [int(run.data.tags["gradsweep.together"]) for run in runs]
    assert max(together) > 2
    assert min(together) >= 1
    assert finished.report.exists()
    again, printed = case.run()
    assert (again.ran, again.complete) == (0, True)


def test_a_network_that_cannot_be_stacked_is_trained_one_trial_after_another(alone: Case, tmp_path: Path) -> None:
    case = Case(tmp_path)
    problem = {"name": "tests.hpo.problems_for_tests:Branching", "folder": str(tmp_path)}
    case.study(cohort=8, problem=problem)
    finished, printed = case.run()
    assert finished.complete
    runs = case.runs()
    assert_complete(runs)
    check_same(runs, alone.runs())
    assert {run.data.tags["gradsweep.together"] for run in runs} == {"1"}
    assert "trials of a cohort are trained one after another: its training step cannot be vectorised: " in printed


def test_by_default_the_number_is_found_out_and_said(tmp_path: Path) -> None:
    case = Case(tmp_path)
    references = ["single_task", "equal", "famo"]  # the last one cannot be trained at once, which must not matter
    case.study(cohort="auto", static={"points": 12}, references=references)
    finished, printed = case.run()
    assert finished.complete
    assert_complete(case.runs(), 35)
    said = r"^trials: (\d+ at once|one at a time, since trials at once would gain little) \("
    assert re.search(said, printed, re.MULTILINE)
