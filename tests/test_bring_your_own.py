"""docs/bring-your-own.md: its code and commands are the examples', and its change to the script works."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch

from balancers.weights_file import SCHEMA, VERSION
from hpo.check import training_checks
from hpo.check.problem_check import check_problem
from hpo.launch.restore import open_plan
from hpo.study.schedule import Schedule
from tests.helpers.scripts import run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()


def blocks(kind: str) -> list[str]:
    """The page's code of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def changed(script: str, difference: str) -> str:
    """The script with the page's change."""
    for hunk in re.split(r"^@@.*\n", difference, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if not line.startswith("+"))
        assert script.count(before) == 1
        script = script.replace(before, "".join(line[1:] for line in lines if not line.startswith("-")))
    return script


def test_the_code_on_the_page_is_the_examples():
    files = ("plain_training.py", "bring_your_own.py", "bring_your_own.yaml")
    *own, _schedules = blocks("python")  # the last one goes on from the example
    assert [*own, *blocks("yaml")] == [(EXAMPLES / file).read_text() for file in files]


def test_the_change_takes_all_that_the_page_says():
    (difference,) = blocks("diff")
    script = changed((EXAMPLES / "plain_training.py").read_text(), difference)
    assert "WEIGHTS" not in script
    assert 'Static.load("weights.json", tasks=["digit", "ink", "lower_half"])' in script
    assert "GradNorm.robust(" in PAGE


def test_the_commands_are_those_of_the_problem_and_its_study(monkeypatch):
    monkeypatch.chdir(ROOT)
    problem, study = "examples.bring_your_own:HalfDigits", "examples/bring_your_own.yaml"
    assert "".join(blocks("sh")).splitlines() == [
        f"gradsweep check {problem}",
        f"gradsweep plan {study}",
        f"gradsweep run {study}",
        f"gradsweep report {study}",
        f"gradsweep export {study} -o weights.json",
    ]
    plan = open_plan(ROOT / study)
    assert plan.study.problem.name == problem
    assert f"{Schedule(plan, runs=False).size} trials of {plan.epochs} epochs" in PAGE
    monkeypatch.setattr(training_checks, "TRAINED_STEPS", 100)
    assert {finding.level for finding in check_problem(problem, {}, torch.device("cpu"))} == {"ok"}


@pytest.mark.slow
def test_the_changed_script_trains_with_a_weights_file(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other take a minute
    weights = {"digit": 2.7, "ink": 0.01, "lower_half": 0.29}
    content = {"schema": SCHEMA, "version": VERSION, "tasks": list(weights), "weights": weights}
    (tmp_path / "weights.json").write_text(json.dumps(content))
    script = changed((EXAMPLES / "plain_training.py").read_text(), *blocks("diff"))
    (tmp_path / "changed.py").write_text(script)
    metrics = ast.literal_eval(run("changed.py", folder=tmp_path))
    assert metrics["digit"] > 0.6
    assert metrics["ink"] < 5
    assert metrics["lower_half"] < 5
