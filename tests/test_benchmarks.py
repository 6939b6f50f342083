"""The benchmark of a step runs and prints a row for each contender; its figures are nobody's to assert."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_of_a_step_prints_its_table():
    command = [sys.executable, "-m", "benchmarks.step", "--only", "toy, 2 tasks", "--rounds", "2"]
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert all(len(row) == 4 for row in rows)
    names = [row[0].strip("| ") for row in rows]
    assert names[:5] == ["step", "static", "floor", "one pass", "called"]
