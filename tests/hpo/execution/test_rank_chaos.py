"""Kill processes of trials that two train together, nodes and drivers at random; the same command loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.helpers.chaos import PACE, Chaos, kill_count
from tests.helpers.rank_trials import trained_in_ranks
from tests.helpers.runs import Case
from tests.helpers.undisturbed import Undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 64  # that are counted of a trial: 4 epochs of 8 on 2 ranks
VICTIMS = ("trainer", "node", "driver", "raylet", "watcher", "trainer", "driver")


@pytest.fixture
def chaos(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Chaos]:
    """A study on three raylets, each of which can hold one of the two ranks of a trial."""
    case = Case(tmp_path)
    case.study(
        problem={"name": f"tests.helpers.rank_functions:{request.param}", "folder": str(tmp_path)},
        seeds=1,
        static={"points": 2},
        gradnorm={"recipes": ["robust"], "trials": 1},
        references=["single_task"],
        checkpoint_seconds=0,
        resources={"workers": 2},
    )
    found = Chaos(case, VICTIMS, kill_count(3), cpus=(1, 1, 1))
    yield found
    found.close()


@pytest.mark.parametrize("chaos", ["counted", pytest.param("Counted", marks=pytest.mark.chaos)], indirect=True)
def test_trials_of_two_processes_end_bit_for_bit_as_undisturbed(chaos, capfd, monkeypatch):
    chaos.case.steer(seconds=0.0)
    undisturbed = Undisturbed(chaos.case, trained_in_ranks)
    chaos.case.steer(seconds=PACE)
    chaos.run(len(undisturbed.trials) * STEPS)
    chaos.assert_finished(capfd, monkeypatch)
    undisturbed.assert_same(chaos.case.runs(), MlflowClient(chaos.case.uri))
