"""Kill trials, nodes, drivers and the MLflow server at random, run the same command again, and lose nothing."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from ray.cluster_utils import Cluster

from hpo.report.comparison_json import document_text
from tests.helpers.forks import Command, Forks
from tests.helpers.runs import Case, main, wait_until
from tests.helpers.tracking import Server
from tests.helpers.undisturbed import Undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SEED = 20180710
KILLS = int(os.environ.get("GRADSWEEP_CHAOS_KILLS", "5"))  # `make chaos` takes 20
PACE = 0.03  # seconds a step
STEPS = 16  # of a trial: 4 epochs of 4
VICTIMS = ("trial", "trial", "trial", "node", "raylet", "driver", "driver", "server")
# A dead node is missed within seconds, a slow one is not taken for dead.
PATIENCE = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 10_000}
OF_TIME = ("cost", "provenance", "sentences")  # parts of the comparison that name measured seconds


class Chaos:
    """A study on a head and two nodes behind a server, and what can be killed of it."""

    def __init__(self, case: Case, server: Server, seed: int) -> None:
        self.case, self.server, self.random = case, server, random.Random(seed)
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "_system_config": PATIENCE, "include_dashboard": False},
        )
        for _ in range(2):
            self.cluster.add_node(num_cpus=1)
        self.forks = Forks(case.folder, case.mark)
        self.driver: Command | None = None
        self.codes: list[int] = []
        self.log: list[str] = []
        self.said = ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Trials wait while something starts, which may take long: else they would end before they can be killed."""
        self.case.steer(seconds=PACE, hold=True)
        yield
        self.case.steer(seconds=PACE)

    def steps(self) -> int:
        with suppress(FileNotFoundError):
            return (self.case.folder / "steps").stat().st_size
        return 0

    def launch(self) -> None:
        """The same command, in the background."""
        options = ("--address", self.cluster.address, "--tracking-uri", self.server.url)
        self.driver = self.forks.start("run", "study.yaml", *options, environment={"RAY_AUTH_MODE": "disabled"})

    def ended(self) -> bool:
        """Note how a driver ended by itself, and launch another unless the study is done."""
        assert self.driver is not None
        if (code := self.driver.returncode) is None:
            return False
        self.codes.append(code)
        self.said += self.driver.printed() + self.driver.errors()
        self.log.append(f"driver ended: {self.driver.returncode}")
        return True

    def kill(self, victim: str) -> None:
        """Kill, and start again what does not come back by itself."""
        self.log.append(f"{self.steps()} steps: {victim}")
        getattr(self, f"kill_{victim}")()

    def kill_trial(self) -> None:
        os.kill(self.random.choice(wait_until(self.trainers, 240, f"a trial: {self.log}")), signal.SIGKILL)

    def trainers(self) -> list[int]:
        """Processes that have begun a trial and are alive."""
        lines = (self.case.folder / "starts").read_text().splitlines()
        return [pid for pid in sorted({int(line.split()[1]) for line in lines}) if alive(pid)]

    def kill_node(self) -> None:
        """Raylet and workers at once, as a preempted machine."""
        node = self.random.choice(sorted(self.cluster.worker_nodes, key=lambda node: str(node.unique_id)))
        self.cluster.remove_node(node, allow_graceful=False)
        with self.held():
            self.cluster.add_node(num_cpus=1)

    def kill_raylet(self) -> None:
        """The raylet alone: its workers go on for a while beside those that take over."""
        node = self.random.choice(sorted(self.cluster.worker_nodes, key=lambda node: str(node.unique_id)))
        node.all_processes["raylet"][0].process.kill()
        with self.held():
            self.cluster.add_node(num_cpus=1)
        self.cluster.remove_node(node, allow_graceful=False)

    def kill_driver(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.said += self.driver.printed() + self.driver.errors()
        self.launch()

    def kill_server(self) -> None:
        """It stays away until the next kill, or until the driver has ended for want of it."""
        self.server.kill()

    def run(self, kills: list[tuple[int, str]]) -> None:
        """Kill at each number of steps whom it says, then let the command come to its end, as often as it takes."""
        self.launch()
        for threshold, victim in kills:
            wait_until(lambda threshold=threshold: self.steps() >= threshold or self.ended(), 240, f"{self.log}")
            if not self.server.runs():
                with self.held():
                    self.server.start()
            if self.driver is not None and self.driver.returncode is not None:  # it missed the server
                self.launch()
            self.kill(victim)
        if not self.server.runs():
            self.server.start()
        for _ in range(5):
            wait_until(self.ended, 240, f"the end: {self.log}")
            if self.codes[-1] == 0:
                return
            self.launch()

    def close(self) -> None:
        if self.driver is not None and self.driver.returncode is None:
            self.driver.kill()
        self.forks.close()
        self.cluster.shutdown()


def victims(count: int) -> list[str]:
    """Whom to kill, in random order, each kind at least once."""
    drawn = random.Random(SEED)
    found = [*sorted(set(VICTIMS)), *drawn.choices(VICTIMS, k=count - len(set(VICTIMS)))]
    drawn.shuffle(found)
    return found


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
    case.steer(seconds=PACE)
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    found = Chaos(case, server, SEED)
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


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


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
        least = len(undisturbed.trials) * STEPS  # that are trained, whatever is trained twice
        thresholds = sorted(random.Random(SEED).sample(range(8, int(0.9 * least)), KILLS))
        chaos.run(list(zip(thresholds, victims(KILLS), strict=True)))
        assert chaos.codes[-1] == 0, (chaos.log, chaos.said)
        assert "Traceback" not in chaos.said
        assert len([line for line in chaos.log if " steps: " in line]) == KILLS
        assert {line.partition(": ")[2] for line in chaos.log if " steps: " in line} == set(VICTIMS)
        monkeypatch.chdir(chaos.case.folder)
        options = ("--address", chaos.cluster.address, "--tracking-uri", chaos.server.url)
        code, out, err = main(capfd, "run", "study.yaml", *options)
        assert (code, err) == (0, "")
        assert "\nEvery trial of this study has finished; nothing was run.\n" in out

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
