"""A study on a Ray cluster of several raylets, and what can be killed of it while it runs."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster

from tests.helpers.forks import Command, Forks
from tests.helpers.runs import Case, main, wait_until
from tests.helpers.tracking import Server

PACE = 0.03  # seconds a step
SOON = 0.3  # share of the kills that come soon after the last one, so that they hit what has just been started
SOON_SECONDS = 5.0
BETWEEN_STEPS = 0.3  # seconds: about the end and the beginning of trials too
# A dead node is missed within seconds, a slow one is not taken for dead.
PATIENCE = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 10_000}


def kill_count(default: int) -> int:
    """Return the number of kills: ``make chaos`` takes more than CI."""
    return int(os.environ.get("GRADSWEEP_CHAOS_KILLS", str(default)))


def kill_seed() -> int:
    """Return the seed that decides whom to kill and when; ``GRADSWEEP_CHAOS_SEED`` takes another."""
    return int(os.environ.get("GRADSWEEP_CHAOS_SEED", "20180710"))


class Chaos:
    """A study of a problem that counts its steps, such as `tests.helpers.problems.Counted`.

    Args:
        case: the study.
        victims: kinds to kill, the names of the methods ``kill_...``; one that is there twice is killed twice as
            often. Each kind is killed once at least, the first ones if there are fewer kills.
        count: of kills.
        cpus: of each raylet, the head first, which is never killed.
        server: of MLflow; without one, the study has the database beside it.

    Attributes:
        codes: exit codes of the drivers that ended by themselves.
        log: what was done, and at which step.
        said: what ended drivers have printed.
    """

    def __init__(
        self, case: Case, victims: Sequence[str], count: int, cpus: Sequence[int], server: Server | None = None
    ) -> None:
        self.case, self.server, self._kinds, self._count = case, server, victims, count
        self.seed = kill_seed()
        self.random = random.Random(self.seed)
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": cpus[0], "_system_config": PATIENCE, "include_dashboard": False},
        )
        for number in cpus[1:]:
            self.cluster.add_node(num_cpus=number)
        self.forks = Forks(case.folder, case.mark)
        self.driver: Command | None = None
        self.codes: list[int] = []
        self.log: list[str] = [f"seed {self.seed}"]
        self.said = ""
        case.steer(seconds=PACE)

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command."""
        server = () if self.server is None else ("--tracking-uri", self.server.url)
        return ("--address", self.cluster.address, *server)

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
        environment = {"RAY_AUTH_MODE": "disabled"}
        self.driver = self.forks.start("run", "study.yaml", *self.options, environment=environment)

    def ended(self) -> bool:
        """Note how a driver ended by itself."""
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

    def kill_trainer(self) -> None:
        os.kill(self.random.choice(wait_until(self.trainers, 240, f"a trial: {self.log}")), signal.SIGKILL)

    def trainers(self) -> list[int]:
        """Processes that have begun a trial and are alive."""
        lines = (self.case.folder / "starts").read_text().splitlines()
        return [pid for pid in sorted({int(line.split()[1]) for line in lines}) if alive(pid)]

    def kill_watcher(self) -> None:
        """The process of Tune that starts and watches the ranks of a trial."""

        def found() -> list[psutil.Process]:
            return [one for one in psutil.Process().children(recursive=True) if "ray::ImplicitFunc" in name_of(one)]

        self.random.choice(wait_until(found, 240, f"a worker of Tune: {self.log}")).kill()

    def kill_node(self) -> None:
        """Raylet and workers at once, as a preempted machine."""
        node = self._node()
        self.cluster.remove_node(node, allow_graceful=False)
        with self.held():
            self.cluster.add_node(num_cpus=1)

    def kill_raylet(self) -> None:
        """The raylet alone: its workers go on for a while beside those that take over."""
        node = self._node()
        node.all_processes["raylet"][0].process.kill()
        with self.held():
            self.cluster.add_node(num_cpus=1)
        self.cluster.remove_node(node, allow_graceful=False)

    def _node(self) -> Any:
        return self.random.choice(sorted(self.cluster.worker_nodes, key=lambda node: str(node.unique_id)))

    def kill_driver(self) -> None:
        assert self.driver is not None
        self.driver.kill()
        self.said += self.driver.printed() + self.driver.errors()
        self.launch()

    def kill_server(self) -> None:
        """It stays away until the next kill, or until the driver has ended for want of it."""
        assert self.server is not None
        self.server.kill()

    def run(self, steps: int) -> None:
        """Kill at random moments, then let the command come to its end, as often as it takes.

        Args:
            steps: that are counted at least, whatever is trained twice.
        """
        thresholds = sorted(self.random.sample(range(8, int(0.9 * steps)), self._count))
        self.launch()
        for threshold, victim in zip(thresholds, self._order(), strict=True):
            soon = self.random.random() < SOON  # else most of those that start would never be killed
            if not soon or not self.steps():
                wait_until(lambda threshold=threshold: self.steps() >= threshold or self.ended(), 240, f"{self.log}")
            time.sleep(self.random.uniform(0, SOON_SECONDS if soon else BETWEEN_STEPS))
            self.log.append("soon" if soon else f"from step {threshold}")
            if self.server is not None and not self.server.runs():
                with self.held():
                    self.server.start()
            if self.driver is not None and self.driver.returncode is not None:  # it missed the server
                self.launch()
            self.kill(victim)
        if self.server is not None and not self.server.runs():
            self.server.start()
        for _ in range(5):
            wait_until(self.ended, 240, f"the end: {self.log}")
            if self.codes[-1] == 0:
                return
            self.launch()

    def _order(self) -> list[str]:
        """Whom to kill, in random order."""
        kinds = list(dict.fromkeys(self._kinds))[: self._count]
        found = [*kinds, *self.random.choices(self._kinds, k=self._count - len(kinds))]
        self.random.shuffle(found)
        return found

    def assert_finished(self, captured: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """As many were killed as were asked for, the command has ended well, and once more it has nothing to run."""
        print(self.log)
        assert self.codes[-1] == 0, (self.log, self.said)
        assert "Traceback" not in self.said, (self.log, self.said)
        killed = [line.partition(": ")[2] for line in self.log if " steps: " in line]
        assert len(killed) == self._count
        assert {*killed} >= {*[*dict.fromkeys(self._kinds)][: self._count]}
        captured.readouterr()
        monkeypatch.chdir(self.case.folder)
        code, out, err = main(captured, "run", "study.yaml", *self.options)
        assert (code, err) == (0, "")
        assert "\nEvery trial of this study has finished; nothing was run.\n" in out

    def close(self) -> None:
        if self.driver is not None and self.driver.returncode is None:
            self.driver.kill()
        self.forks.close()
        self.cluster.shutdown()


def name_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
