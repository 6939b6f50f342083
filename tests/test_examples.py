"""The examples run as their first lines say, and are as short as the README says."""

import ast
import difflib
import json

import pytest

from balancers.weights_file import SCHEMA, VERSION
from examples.command_training import parser
from hpo.core.storage import Storage
from hpo.core.trial import TrialConfig
from hpo.launch.restore import open_plan
from hpo.problems import load_problem
from hpo.study.schedule import Schedule
from hpo.training.checkpoints import Checkpoints
from hpo.training.trial import run_trial
from tests.helpers.function_runs import CPU, run_killed, same
from tests.helpers.nyuv2_files import write_npy
from tests.helpers.scripts import ROOT, run


@pytest.mark.slow
def test_production_training_with_a_weights_file(tmp_path):
    weights = {"schema": SCHEMA, "version": VERSION, "tasks": ["digit", "ink"], "weights": {"digit": 1.9, "ink": 0.1}}
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    metrics = ast.literal_eval(run("-m", "examples.production", folder=tmp_path))
    assert metrics["digit"] > 0.4  # 10 classes; how far the run comes depends on the CPU's rounding
    assert metrics["ink"] > 0.4
    assert len((ROOT / "examples" / "production.py").read_text().splitlines()) < 15


def test_a_problem_of_ones_own(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = open_plan(ROOT / "examples" / "own_problem.yaml")
    assert plan.tasks == ["digit", "ink"]
    assert len((ROOT / "examples" / "own_problem.py").read_text().splitlines()) < 60


@pytest.mark.slow
@pytest.mark.parametrize(("example", "words"), [("own_optuna.py", "alpha"), ("own_tuner.py", "metres")])
def test_the_parts_in_somebody_elses_sweep(example, words, tmp_path):
    assert words in run(str(ROOT / "examples" / example), folder=tmp_path)


@pytest.mark.parametrize("study", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_studies_can_be_read(study, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADSWEEP_NYUV2", str(write_npy(tmp_path)))
    plan = open_plan(study, prepare=False)
    assert plan.study.name == study.stem
    assert Schedule(plan, runs=False).size > 20


def test_the_training_function_is_the_plain_script_with_few_changed_lines(monkeypatch):
    names = ("examples/plain_training.py", "examples/training_function.py")
    plain, function = ((ROOT / name).read_text().splitlines() for name in names)
    difference = list(difflib.unified_diff(plain, function, *names, lineterm=""))
    assert sum(line.startswith("+") for line in difference[2:]) <= 15
    page = (ROOT / "docs" / "training-functions.md").read_text()
    shown = page.partition("```diff\n")[2].partition("```")[0].splitlines()
    assert [line.rstrip() for line in shown] == [line.rstrip() for line in difference]
    monkeypatch.chdir(ROOT)
    plan = open_plan(ROOT / "examples" / "training_function.yaml")
    assert (plan.is_function, plan.tasks) == (True, ["digit", "ink", "lower_half"])


def test_the_study_of_a_command_gives_it_the_weight_of_each_task(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = open_plan(ROOT / "examples" / "command_training.yaml")
    assert (plan.is_function, plan.tasks, plan.epochs) == (True, ["digit", "ink", "lower_half"], 1)
    study = plan.study.problem.arguments
    command = study["command"].format(**dict.fromkeys([*plan.tasks, "seed", "metrics"], "1"))
    assert parser.parse_args(command.split()[3:]).ink == 1.0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the frameworks
@pytest.mark.parametrize("framework", ["lightning", "trainer", "accelerate"])
def test_the_studies_of_frameworks_are_resumed_to_the_last_digit(framework, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = open_plan(ROOT / "examples" / f"{framework}_study.yaml")
    assert (plan.is_function, plan.tasks, plan.epochs) == (True, ["digit", "ink", "lower_half"], 20)
    problem = load_problem(plan.study.problem.name, {})
    trial = TrialConfig("", {}, "", "equal", {}, 3, 2, True)
    checkpoints = Checkpoints(Storage(str(tmp_path)), trial.identity, 0.0)
    run_killed(trial, problem, checkpoints, epoch=2)
    resumed = run_trial(trial, problem, repr, CPU, checkpoints)
    assert resumed.resumed == [24]
    same(run_trial(trial, problem, repr, CPU), resumed)
