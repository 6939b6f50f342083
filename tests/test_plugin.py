"""The package in examples/plugin: installed, its problem is known by name, can be checked and studied."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PLUGIN = Path(__file__).parents[1] / "examples" / "plugin"
COMMAND = str(Path(sys.executable).parent / "gradsweep")
# The least that a study can be: of any more, nothing but the time would change here.
TINY = {
    "seeds": 1,
    "epochs": 1,
    "references": ["single_task"],
    "shortlist": "off",
    "static": {"points": 2, "center": "equal"},
    "gradnorm": {"recipes": ["robust"], "trials": 1},
    "confirm": {"top_static": 1, "averages": ["tail"]},
    "cohort": 1,
    "resources": {"cpu": os.cpu_count()},  # one worker
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    """Run a command where the plugin is installed, and nothing of it was before."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PLUGIN, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    ours = ("TUNE_", "RAY_", "MLFLOW_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {
        "PYTHONPATH": str(folder / "installed"),
        "HOME": str(folder),
        "COLUMNS": "160",
        "OMP_NUM_THREADS": "1",
    }

    def command(*arguments: str) -> str:
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--disable-pip-version-check")
    command(sys.executable, "-m", "pip", "install", *offline, "--target", "installed", "./source")
    return command


@pytest.mark.slow
def test_its_problem_is_listed_and_without_fault(run):
    (listed,) = [line for line in run(COMMAND, "problems").splitlines() if "cell_nuclei" in line]
    assert "Breast cancer Wisconsin" in listed
    found = run(COMMAND, "check", "cell_nuclei", "--set", "hidden=8")
    assert "Faults: 0, warnings: 0." in found
    assert "times apart" in found  # its losses are in raw units


@pytest.mark.slow
def test_its_study_runs_by_the_name_of_the_problem(run, tmp_path):
    study = yaml.safe_load((PLUGIN / "study.yaml").read_text())
    assert study["problem"]["name"] == "cell_nuclei"
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study | TINY))
    out = run(COMMAND, "run", str(tmp_path / "tiny.yaml"), "--output", str(tmp_path))
    assert "Train with " in out
    assert (tmp_path / "cell-nuclei" / "weights.json").exists()
