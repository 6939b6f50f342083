"""The benchmarks of whole searches run on tiny ones; the figures in them are nobody's to assert."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scale, sweep


def benchmark(*arguments: str) -> list[list[str]]:
    """Run one: its tables' rows."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.slow
def test_a_plain_script_and_a_study_do_the_same_work(tmp_path):
    file = tmp_path / "figures.json"
    small = ["--points", "3", "--plain-points", "2", "--alphas", "1", "--epochs", "1"]
    rows = benchmark("benchmarks.sweep", "--problems", "toy", *small, "--cohort", "auto", "--json", str(file))
    assert rows[0] == ["", "plain Ray Tune", "ours, cohort: auto"]
    assert [row[0] for row in rows[1:]] == [sweep.ROWS[name][0] for name in sweep.ROWS if name != "gpu"]
    found = json.loads(file.read_text())["problems"]["toy"]
    plain, ours = found["contenders"].values()
    assert (plain["trials"], ours["trials"]) == (3, 4)
    assert 0 < ours["training_share"] < 100
    assert ours["memory"] > 100
    (difference,) = found["differences"]
    assert difference["shared"] == 3
    assert difference["largest"] <= sweep.TOLERANCE


@pytest.mark.slow
def test_a_launch_is_taken_apart():
    rows = benchmark("benchmarks.scale", "--trials", "8", "--raylets", "1", "--alphas", "3")
    assert rows[0] == ["trials", "alphas", "next, ms", "finished, ms", "a look, ms"]
    assert rows[1][:2] == ["8", "3"]
    assert rows[2] == list(scale.HEADS)
    assert rows[3][:2] == ["8", "1"]
    seconds, *parts = (float(cell) for cell in rows[3][2:7])
    assert 0 < sum(parts[:3]) / 1000 < seconds


def test_a_schedule_by_itself_hands_out_every_trial():
    assert scale.alone(20, 4).trials == 20


def test_the_largest_difference_is_found_where_it_is():
    metrics = {"1 1": {"a": 1.0, "b": 2.0}, "2 1": {"a": 9.0, "b": 9.0}}, {"1 1": {"a": 1.0, "b": 2.5}}
    one, other = (sweep.Figures(len(found), *[1.0] * 9, None, found) for found in metrics)
    (found,) = sweep.differences({"one": one, "other": other})
    assert found == sweep.Difference(("one", "other"), 1, 0.2, "b of 1 1")


def test_a_trial_is_called_the_same_by_both():
    assert sweep.trial_key({"weights": {"b": 0.5, "a": 1.5}}, ["a", "b"]) == "1.5 0.5"
    assert sweep.trial_key({}, ["a", "b"]) == "1 1"
    assert sweep.trial_key({"recipe": "paper", "alpha": 0.5}, ["a", "b"]) == "alpha 0.5"
