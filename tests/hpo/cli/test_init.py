"""`gradsweep init`: what it writes can be checked and run as it is, and nothing is overwritten."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.launch.restore import open_plan
from hpo.study.spec import Study
from tests.helpers.runs import main

ROOT = Path(__file__).resolve().parents[3]
OTHERS = {"epochs", "search", "baseline"}  # keys that are shown with other values than their defaults


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Make a folder with what `init` writes, the current one."""
    assert main(capsys, "init", str(tmp_path / "mine"))[0] == 0
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.delitem(sys.modules, "my_problem", raising=False)
    return tmp_path / "mine"


def test_check_finds_no_fault_and_no_warning(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = main(capsys, "check", "my_problem:MyProblem", "--device", "cpu")
    assert (code, err) == (0, ""), out
    assert "Faults: 0, warnings: 0." in out


def test_the_study_trains_the_problem(folder: Path) -> None:
    plan = open_plan(folder / "study.yaml")
    assert plan.tasks == ["kind", "length"]
    assert plan.study.problem.name == "my_problem:MyProblem"


def test_keys_that_are_commented_out_show_their_defaults(folder: Path) -> None:
    text = (folder / "study.yaml").read_text()
    shown = yaml.safe_load("\n".join(re.findall(r"^# (\w+: .+)$", text, re.MULTILINE)))
    assert {"seed", "references", "confirm", "resources", "cohort", "checkpoint_seconds", "margin"} <= shown.keys()
    written = yaml.safe_load(text)
    assert {*shown, *written} >= Study.model_fields.keys()
    for key in shown.keys() - OTHERS:
        assert Study.model_validate(written | {key: shown[key]}) == Study.model_validate(written)
    Study.model_validate(written | {key: shown[key] for key in OTHERS})


@pytest.mark.slow
def test_the_study_runs_to_its_verdict(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    study = yaml.safe_load((folder / "study.yaml").read_text())
    tiny: dict[str, Any] = {
        "seeds": 1,
        "epochs": 1,
        "static": {"points": 2, "center": "equal"},
        "gradnorm": {"recipes": ["direct"], "trials": 1},
    }
    tiny["cohort"] = 1
    tiny["resources"] = {"cpu": os.cpu_count()}  # one worker
    tiny["shortlist"] = {"alphas": [0.5], "averages": ["tail"], "seeds": 1}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(study | tiny))
    command = [sys.executable, "-m", "gradsweep", "run", "tiny.yaml"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "gradsweep-output" / "my-study" / "weights.json").exists()


@pytest.mark.parametrize("name", ["study.yaml", "my_problem.py"])
def test_existing_files_are_not_overwritten(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).write_text("mine")
    code, out, err = main(capsys, "init", str(tmp_path))
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / name}: already exists; choose another folder, or move it away\n"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    code, out, err = main(capsys, "init", str(tmp_path / "file" / "folder"))
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / 'file' / 'folder'}: cannot be written to: Not a directory\n"
