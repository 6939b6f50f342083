"""The benchmarks run and print their tables; the figures in them are nobody's to assert."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest


def benchmark(*arguments: str) -> tuple[str, list[list[str]]]:
    """Run one: all that it prints, and its table's rows."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]


@pytest.mark.slow
def test_the_benchmark_of_a_step_prints_its_table():
    _, rows = benchmark("benchmarks.step", "--only", "toy, 2 tasks", "--rounds", "2")
    assert all(len(row) == 4 for row in rows)
    names = [row[0].strip("| ") for row in rows]
    assert names[:5] == ["step", "static", "floor", "one pass", "called"]


@pytest.mark.slow
def test_the_benchmark_of_the_report_makes_a_study_that_the_command_knows(tmp_path):
    printed, rows = benchmark("benchmarks.report", "--trials", "60", "--epochs", "2", "--output", str(tmp_path))
    assert "SIMULATED study simulated-60, no network was trained: 60 trials by 2 epochs" in printed
    names = [row[0].strip("| ") for row in rows]
    assert names == ["report", "target: less than", "first, which writes the scores", "again"]
    trials = pd.read_csv(tmp_path / "simulated-60" / "report" / "trials.csv")
    assert len(trials) == 60
    assert set(trials["status"]) == {"finished"}
    assert set(trials["phase"]) == {"references", "static", "sweep", "confirm"}
