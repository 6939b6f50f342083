"""A command as the trainer: its places, its metrics, its faults."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.core.command_folder import tell_command_folder
from hpo.core.errors import ProblemError
from hpo.core.storage import Storage
from hpo.core.trial import TrialConfig, TrialResult, TrialStatus
from hpo.execution.job import Job, worker_task
from hpo.problems import load_problem
from hpo.problems.command import NAME
from hpo.problems.data_cache import prepare_once
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.study.study_file import study_from
from hpo.training.checkpoints import Checkpoints
from hpo.training.trial import run_trial
from hpo.training.worker import train_cohort

SCRIPT = """
import json, pathlib, sys
near, far, seed, file, *more = sys.argv[1:]
if more:
    print("so far well")
    sys.exit(more[0])
found = {"near": float(near), "far off": float(far) + int(seed)}
pathlib.Path(file).write_text(json.dumps({"validation": found, "test": found}))
"""
TASKS = {"near": "MSE", "far off": {"metric": "R2", "direction": "maximize"}}
PLACES = "{near} '{far off}' {seed} {metrics}"


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "train me.py").write_text(SCRIPT)
    return f"{sys.executable} -S '{tmp_path / 'train me.py'}'"


def trained(command: str, test: bool = True, checkpoints: Checkpoints | None = None) -> TrialResult:
    problem = load_problem(NAME, {"command": command, "tasks": TASKS})
    settings = {"weights": {"near": 3.0, "far off": 1.0}}
    trial = TrialConfig(NAME, {}, "", "static", settings, 7, 1, test)
    return run_trial(trial, problem, lambda report: None, torch.device("cpu"), checkpoints)


def test_a_command_gets_weights_and_seed_and_leaves_metrics(script: str):
    found = trained(f"{script} {PLACES}")
    assert found.status is TrialStatus.FINISHED, found.error
    assert found.validation == found.test == {"near": 1.5, "far off": 7.5}
    assert found.averages["arithmetic"] == {"near": 1.5, "far off": 0.5}
    assert trained(f"{script} {PLACES}", test=False).test == {}


def test_its_output_is_beside_its_checkpoints_and_ends_the_message_of_a_failure(script: str, tmp_path: Path):
    checkpoints = Checkpoints(Storage(str(tmp_path / "kept")), "trial", 0.0)
    found = trained(f"{script} {PLACES} 'no GPU'", checkpoints=checkpoints)
    assert found.status is TrialStatus.FAILED
    assert found.error.startswith("ValueError: command: expected exit code 0, got 1: no GPU\n")
    assert (tmp_path / "kept" / "trial" / "files" / "output-0.txt").read_text() == "so far well\nno GPU\n"


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("true", "got none"),
        ("sh -c 'echo [] > $0' {metrics}", "got []"),
        ("sh -c 'echo { > $0' {metrics}", "got Expecting property name enclosed in double quotes: "),
        ("no-such-program", "expected exit code 0, got 1: FileNotFoundError: [Errno 2] No such file or directory"),
    ],
)
def test_a_command_that_leaves_no_metrics_fails_by_name(command: str, found: str):
    places = "{near} '{far off}' {seed}" if "{metrics}" in command else PLACES
    result = trained(f"{command} {places}")
    assert result.error.startswith("ValueError: command: expected ")
    assert found in result.error.partition("\n")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"command": "train {near} {seed} {metrics}", "tasks": TASKS},
            "problem.command: expected a place for each of {near}, {far off}, {seed}, {metrics}, got none for "
            "{far off}",
        ),
        (
            {"command": f"train {PLACES} {{rate}}", "tasks": TASKS},
            "problem.command: expected only {near}, {far off}, {seed}, {metrics}, {folder}, {epoch} in braces, got "
            "{rate}",
        ),
        (
            {"command": f"train {PLACES} 'x", "tasks": TASKS},
            "problem.command: expected a command line with closed quotes, ",
        ),
        ({"command": 3, "tasks": TASKS}, "problem.command: expected a command line, got 3"),
        (
            {"command": "train", "tasks": ["near"]},
            "problem.tasks: expected a mapping of each task to its metric, got ['near']",
        ),
        (
            {"command": "train", "tasks": {"near": 3}},
            "problem.tasks.near: expected the name of its metric, or {metric: ",
        ),
        (
            {"command": "train", "tasks": {"seed": "MSE"}},
            "problem.tasks: expected names other than seed, metrics, folder, ",
        ),
    ],
)
def test_a_command_that_cannot_be_used_is_refused_before_anything_runs(arguments: dict[str, Any], message: str):
    with pytest.raises(ProblemError) as raised:
        load_problem(NAME, arguments)
    assert str(raised.value).startswith(message)


def test_a_study_needs_no_name_for_a_command():
    study = study_from({"name": "x", "problem": {"command": "train", "tasks": TASKS}}).study
    assert study.problem.name == NAME
    assert study.problem.arguments == {"command": "train", "tasks": TASKS}


def test_an_edited_script_makes_other_trials(script: str, tmp_path: Path):
    problem = load_problem(NAME, {"command": f"{script} {PLACES}", "tasks": TASKS})
    before = problem.data_hash()
    (tmp_path / "train me.py").write_text(SCRIPT + "# edited")
    assert problem.data_hash() != before


def test_paths_are_relative_to_the_folder_in_which_the_study_is_run(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "home" / "below").mkdir(parents=True)
    (tmp_path / "train me.py").rename(tmp_path / "home" / "below" / "train.py")
    monkeypatch.chdir(tmp_path / "home")
    arguments = {"command": f"{sys.executable} train.py {PLACES}", "tasks": TASKS, "directory": "below"}
    content = {"name": "x", "problem": arguments, "gradnorm": "off", "shortlist": "off", "static": {"points": 1}}
    plan = Plan(study_from(content).study, load_problem(NAME, arguments))
    trial = next(iter(Schedule(plan).planned()))
    job = Job(plan.study.resources, str(tmp_path / "storage"), 0.0, NAME)
    task = worker_task(job, [trial], [1])
    told: list[Any] = []
    try:
        monkeypatch.chdir(tmp_path)  # as a worker, whose folder is Ray's
        train_cohort(task, job.storage, told.append)
    finally:
        tell_command_folder(None)
    result = told[-1]["events"][-1].content
    assert result.status is TrialStatus.FINISHED, result.error


@pytest.mark.parametrize(
    ("command", "more", "message"),
    [
        ("no-such-program", {}, "problem.command: expected a program of this machine, "),
        ("./train.sh", {}, "problem.command: expected a program of this machine, "),
        ("python3 train.py", {}, "problem.command: expected a script that is there, "),
        ("true", {"directory": "nowhere"}, "problem.directory: expected a folder of this machine, "),
        ("sh -c 'python3 train.py'", {}, ""),
        ("docker-or-true train.py", {}, ""),  # which may be inside of a container
    ],
)
def test_what_a_command_lacks_is_found_before_anything_runs(
    command: str, more: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docker-or-true").write_text("#!/bin/sh\n")
    (tmp_path / "docker-or-true").chmod(0o700)
    problem = load_problem(NAME, {"command": f"{command} {PLACES}", "tasks": TASKS, **more})
    if not message:
        prepare_once(problem)
        return
    with pytest.raises(ProblemError) as raised:
        prepare_once(problem)
    assert str(raised.value).startswith(message)
