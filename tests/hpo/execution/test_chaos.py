"""Kill trials, nodes, drivers and the MLflow server at random, run the same command again, and lose nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from hpo.report.comparison_json import document_text
from tests.helpers.chaos import PACE, Chaos, kill_count
from tests.helpers.runs import Case
from tests.helpers.tracking import Server
from tests.helpers.undisturbed import Undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = 16  # of a trial: 4 epochs of 4
VICTIMS = ("trainer", "trainer", "trainer", "node", "raylet", "driver", "driver", "server")
OF_TIME = ("cost", "provenance", "sentences")  # parts of the comparison that name measured seconds


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    case = Case(tmp_path_factory.mktemp("chaos"), database=False)
    case.study(
        problem={"name": "tests.helpers.problems:Counted", "folder": str(case.folder)},
        gradnorm={"recipes": ["robust"], "trials": 13},  # beyond the ten that Optuna's sampler draws at random
        static={"points": 4},
        seeds=2,
        checkpoint_seconds=0,
    )
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    found = Chaos(case, VICTIMS, kill_count(5), cpus=(0, 1, 1), server=server)
    try:
        yield found
    finally:
        found.close()
        server.stop()


@pytest.fixture(scope="module")
def undisturbed(chaos: Chaos) -> Undisturbed:
    chaos.case.steer(seconds=0.0)
    found = Undisturbed(chaos.case)
    chaos.case.steer(seconds=PACE)
    return found


def timeless(content: Any) -> Any:
    """Without measured seconds, and without what says where and when."""
    if isinstance(content, dict):
        left = {key: value for key, value in content.items() if "seconds" not in key and key not in OF_TIME}
        return {key: timeless(value) for key, value in left.items()}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def trial_runs(chaos: Chaos) -> list[Run]:
    return chaos.case.runs(uri=chaos.server.url)


class TestChaos:
    def test_the_same_command_finishes_the_study(self, chaos, undisturbed, capfd, monkeypatch):
        assert len(undisturbed.trials) >= 30
        chaos.run(len(undisturbed.trials) * STEPS)
        chaos.assert_finished(capfd, monkeypatch)

    def test_every_trial_is_in_mlflow_once_and_as_an_undisturbed_run_has_it_bit_for_bit(self, chaos, undisturbed):
        undisturbed.assert_same(trial_runs(chaos), MlflowClient(chaos.server.uri))  # HTTP would make questions dear

    def test_verdict_and_weights_file_are_the_same(self, chaos, undisturbed):
        weights = json.loads((chaos.case.results / "weights.json").read_text())
        runs = {run.info.run_id for run in trial_runs(chaos)}
        assert weights["runs"]
        assert runs >= set(weights["runs"])
        for content in (weights, undisturbed.weights):
            del content["created"], content["runs"]
        assert weights == undisturbed.weights
        found = timeless(json.loads((chaos.case.results / "report" / "comparison.json").read_text()))
        assert found["verdict"]["kind"] != "none"
        assert found == timeless(json.loads(document_text(undisturbed.report())))

    def test_only_report_and_weights_file_remain(self, chaos):
        names = {path.name for path in chaos.case.results.iterdir()}
        assert names == {".lock", "report", "weights.json"}
