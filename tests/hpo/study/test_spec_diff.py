"""Changes of a study file, and the trials that are kept."""

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from hpo.core.trial import TrialResult
from hpo.launch.restore import open_plan
from hpo.launch.run import _tell_changes
from hpo.launch.workspace import place
from hpo.study.phases.references import reference_trials
from hpo.study.phases.static_search import static_trials
from hpo.study.schedule import Schedule
from hpo.study.spec_diff import LISTED, changes, describe_changes
from hpo.study.study_file import load_study
from hpo.tracking.experiment import StudyExperiment
from tests.helpers.runs import Case

BEFORE = """
name: one
problem: {name: toy, functions: 3}
seeds: 3
static: {design: sobol, points: 8}
"""


def differing(folder: Path, after: str) -> list[str]:
    (folder / "before.yaml").write_text(BEFORE)
    (folder / "after.yaml").write_text(after)
    return changes(folder / "before.yaml", load_study(folder / "after.yaml"))


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("seeds: 3", "seeds: 3  # and a comment", []),
        ("seeds: 3", "seeds: 5", ["seeds: 3 -> 5"]),
        ("functions: 3", "functions: 4", ["problem.functions: 3 -> 4"]),
        ("seeds: 3", "seeds: 3\nresources: {minutes: 5}", ["resources.minutes: none -> 5.0"]),
        (
            "static: {design: sobol, points: 8}",
            "static: [[1, 1, 1], [2, 0.5, 0.5]]",
            [
                "static.design: sobol -> log_lattice",
                "static.points: 8 -> 24",
                "static.explicit: none -> (1.0, 1.0, 1.0), (2.0, 0.5, 0.5)",
            ],
        ),
    ],
)
def test_each_field_that_differs_is_named(tmp_path, old, new, found):
    assert differing(tmp_path, BEFORE.replace(old, new)) == found


def test_a_file_that_can_no_longer_be_read_is_reported(tmp_path):
    (tmp_path / "before.yaml").write_text("name: one\nproblem: toy\nof_another_version: 1\n")
    (tmp_path / "after.yaml").write_text(BEFORE)
    found = changes(tmp_path / "before.yaml", load_study(tmp_path / "after.yaml"))
    assert found == ["the file of the launch before cannot be read by this version"]


def test_many_changes_are_cut_short():
    text = describe_changes([f"field{i}: 1 -> 2" for i in range(LISTED + 3)], kept=5, missing=7, others=2)
    assert f"field{LISTED - 1}: 1 -> 2 and 3 more. 5 trials are kept, 7 to run." in text
    assert text.endswith("2 earlier trials are not among these, but kept in MLflow.")


def test_a_launch_says_what_is_kept_of_the_launch_before(tmp_path, toy_results):
    small = {"problem": "toy", "references": ["single_task"], "static": {"points": 2}}
    case = Case(tmp_path, "changed", workers=1)
    before = case.study(seeds=1, **small)
    where = place(case.output, None)
    store = StudyExperiment(where.uri, case.name, where.output)
    store.start_launch(before.read_text())
    plan = open_plan(case.study(seeds=2, **small))
    results = {planned.config.identity: toy_results for planned in [*reference_trials(plan), *static_trials(plan)]}
    results["of another study"] = toy_results
    console = Console(file=StringIO(), width=400)
    _tell_changes(plan.study, Schedule(plan, results), store, console)
    assert re.fullmatch(
        "The study file has changed since the last launch: seeds: 1 -> 2. 4 trials are kept, [0-9]+ to run. "
        "1 earlier trial is not among these, but kept in MLflow.\n",
        console.file.getvalue(),  # type: ignore[attr-defined]
    )
    console = Console(file=StringIO(), width=400)
    store.start_launch((case.folder / "study.yaml").read_text())
    _tell_changes(plan.study, Schedule(plan, results), store, console)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.fixture
def toy_results() -> TrialResult:
    return TrialResult("finished", validation={"f1": 1.0, "f2": 1.0})
