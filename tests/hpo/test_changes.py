"""What a changed study file changes, and what is kept."""

from pathlib import Path

import pytest

from hpo.changes import LISTED, changes, told
from hpo.study import load_study
from tests.hpo.runs_for_tests import Case

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


def test_a_file_that_can_no_longer_be_read_is_said_to_be(tmp_path):
    (tmp_path / "before.yaml").write_text("name: one\nproblem: toy\nof_another_version: 1\n")
    (tmp_path / "after.yaml").write_text(BEFORE)
    found = changes(tmp_path / "before.yaml", load_study(tmp_path / "after.yaml"))
    assert found == ["the file of the launch before cannot be read by this version"]


def test_many_changes_are_cut_short():
    text = told([f"field{i}: 1 -> 2" for i in range(LISTED + 3)], kept=5, missing=7, others=2)
    assert f"field{LISTED - 1}: 1 -> 2 and 3 more. 5 trials are kept, 7 to run." in text
    assert text.endswith("2 earlier trials are not part of it any more; MLflow keeps them.")


@pytest.mark.slow
def test_a_study_with_more_seeds_says_what_is_kept_and_runs_the_rest(tmp_path):
    case = Case(tmp_path)
    small = {"references": ["single_task"], "static": {"points": 2}, "gradnorm": {"recipes": ["robust"], "trials": 1}}
    case.study(seeds=1, **small)
    first, _ = case.run()
    case.study(seeds=2, **small)
    second, printed = case.run()
    line = printed.splitlines()[0]
    assert line.startswith("The study file has changed since the last launch: seeds: 1 -> 2. ")
    assert line.endswith(f"{first.ran} trials are kept, {second.ran} to run.")
    assert 0 < second.ran < first.ran
    again, printed = case.run()
    assert (again.ran, printed) == (0, "")
