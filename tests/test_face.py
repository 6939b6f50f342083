"""`import gradsweep`: what production and problems need, without what studies need; and whose packages it imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import balancers
import gradsweep
import hpo.api
import hpo.problems
from balancers.weights_file import SCHEMA, VERSION

ROOT = Path(__file__).resolve().parents[1]

NOT_THERE = ("ray", "mlflow", "optuna", "pandas", "scipy", "pydantic", "typer", "rich", "plotly", "yaml", "pyarrow")

# Production has torch and what torch needs; everything else that gradsweep can use is refused.
TORCH_ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2].split(","):
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
import gradsweep
assert "torch" not in sys.modules
balancer = gradsweep.Static.load(sys.argv[1], tasks=["near", "far"])
print(balancer.weights.tolist(), gradsweep.GradNorm.__name__)
"""


def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120
    )


def test_every_name_is_that_of_the_package_it_comes_from():
    for name in gradsweep.__all__:
        home = next(h for h in (hpo.problems, balancers, hpo.api, hpo) if hasattr(h, name))
        assert getattr(gradsweep, name) is getattr(home, name)
    assert dir(gradsweep) == sorted(gradsweep.__all__)
    assert set(balancers.__all__) <= set(gradsweep.__all__)


def test_a_name_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match="module 'gradsweep' has no attribute 'Gradnorm'"):
        gradsweep.Gradnorm  # noqa: B018


def test_production_needs_torch_alone(tmp_path):
    file = tmp_path / "weights.json"
    weights = {"near": 1.5, "far": 0.5}
    content = {"schema": SCHEMA, "version": VERSION, "tasks": list(weights), "weights": weights}
    file.write_text(json.dumps(content))
    done = run("-c", TORCH_ALONE, str(file), ",".join(NOT_THERE))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1.5, 0.5] GradNorm\n", "")


def test_it_is_the_command_too():
    done = run("-m", "gradsweep", "--version")
    assert (done.returncode, done.stdout) == (0, f"gradsweep {gradsweep.__version__}\n")


@pytest.mark.parametrize("name", ["balancers", "search_spaces", "hpo"])
def test_a_user_s_package_that_hides_ours_is_reported_in_one_line(name, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    done = run("-m", "gradsweep", "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: the package '{name}' of gradsweep cannot be imported: expected the one in {ROOT}, got "
        f"{tmp_path / name / '__init__.py'}; rename yours, remove its folder from PYTHONPATH, or start in another "
        "folder\n"
    )
