"""The examples run as their first lines say, and are as short as the README says."""

import ast
import json

import pytest

from balancers.weights_file import SCHEMA, VERSION
from hpo.launch.restore import open_plan
from hpo.study.schedule import Schedule
from tests.helpers.nyuv2_files import write_npy
from tests.helpers.scripts import ROOT, run


@pytest.mark.slow
def test_production_training_with_a_weights_file(tmp_path):
    weights = {"schema": SCHEMA, "version": VERSION, "tasks": ["digit", "ink"], "weights": {"digit": 1.9, "ink": 0.1}}
    (tmp_path / "weights.json").write_text(json.dumps(weights))
    metrics = ast.literal_eval(run("-m", "examples.production", folder=tmp_path))
    assert metrics["digit"] > 0.7
    assert metrics["ink"] > 0.7
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
