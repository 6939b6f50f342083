"""Cost of MLflow in a study, and growth of the driver's memory over a thousand trials.

    python -m benchmarks.tracking            # about seven minutes on 2 cores

First the same trials run in turn with and without the writer of `hpo.tracking.delivery`: epochs of about a second, 60
metrics per epoch, to SQLite and to a server over SQLite. Goal: at most 3% of a trial's time. Then the driver's memory
is measured while it runs a thousand trivial trials. Goal: flat.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import psutil
import torch
import yaml
from rich.console import Console

from benchmarks.overhead import study_of
from benchmarks.trivial import Paced
from hpo.execution import ray_tune
from hpo.execution.job import Job
from hpo.execution.ray_cluster import connected
from hpo.launch.restore import open_plan
from hpo.launch.run import run_study
from hpo.launch.workspace import Workspace, place
from hpo.study.phases.gradnorm_sweeps import sweep_trial
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from hpo.tracking.backend import machine
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.outbox import Outbox
from hpo.tracking.server import healthy

EPOCH_SECONDS = 1.0
TRIALS = 8
POLL = 0.2  # seconds between two looks at the memory


def products() -> int:
    """Return the number of `Paced`'s products that take an epoch's time on one core."""
    torch.set_num_threads(1)
    probe, count = Paced(200), 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < EPOCH_SECONDS:
        probe.work()
        count += 200
    return count


def paced_plan(folder: Path, work: int, epochs: int) -> Plan:
    content = {
        "name": "paced",
        "problem": {"name": "benchmarks.trivial:Paced", "products": work, "epochs": epochs},
        "gradnorm": {"recipes": ["robust"], "trials": TRIALS},
    }
    path = folder / "paced.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return open_plan(path)


def run(plan: Plan, where: Workspace, tracked: bool) -> float:
    """Return the seconds of some GradNorm trials, from the first one's start to the last one's end."""
    store = StudyExperiment(where.uri, where.output.name, where.output)
    schedule = Schedule(plan, runs=False)
    alphas = [3 * i / TRIALS for i in range(TRIALS)]
    for phase in schedule.phases:
        phase.queue.clear()
    schedule.phases[0].queue.extend(sweep_trial(plan, "robust", {"alpha": alpha}) for alpha in alphas)
    job = Job(plan.study.resources, str(where.output / "checkpoints"), 60.0, plan.study.problem.name)
    writer = MlflowWriter(store, store.start_launch("name: paced"), Outbox(where.output / "undelivered"))
    begin = time.perf_counter()
    faults = ray_tune.run(schedule, job, [writer] if tracked else [])
    seconds = time.perf_counter() - begin
    assert writer.close() == faults == []
    assert {result.status for result in schedule.results.values()} == {"finished"}
    return seconds


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run MLflow's server over SQLite, as mlflow/server-sqlite.sh starts it."""
    port = "5083"
    environment = os.environ | {"MLFLOW_DATA": str(folder / "served"), "MLFLOW_PORT": port}
    script = Path(__file__).parents[1] / "mlflow" / "server-sqlite.sh"
    process = subprocess.Popen([script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not healthy(f"http://127.0.0.1:{port}", process, seconds=240):
            raise RuntimeError("the server did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def cost(rounds: int, epochs: int) -> None:
    work = products()
    print(f"{TRIALS} GradNorm trials of {epochs} epochs of a second or so, 12 tasks, 60 metrics an epoch")
    print("| backend | without, s | with, s | cost, median of the rounds (all) |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as url:
        plan = paced_plan(Path(name), work, epochs)
        with connected(None, plan.study.resources):
            for kind, uri in (("SQLite", None), ("server over SQLite", url)):
                seconds: dict[bool, list[float]] = {True: [], False: []}
                for turn in range(rounds):
                    for tracked in (False, True) if turn % 2 else (True, False):
                        where = place(Path(name) / f"{kind}-{turn}-{tracked}", uri)
                        where.output.mkdir()
                        seconds[tracked].append(run(plan, where, tracked))
                costs = [100 * (x / y - 1) for x, y in zip(seconds[True], seconds[False], strict=True)]
                without, with_ = statistics.median(seconds[False]), statistics.median(seconds[True])
                listed = ", ".join(f"{cost:+.1f}" for cost in costs)
                print(f"| {kind} | {without:.1f} | {with_:.1f} | {statistics.median(costs):+.1f}% ({listed}) |")


class Memory:
    """The driver's resident memory by the number of trials that have ended."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._stop = schedule, threading.Event()
        self.samples: dict[int, float] = {}
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(POLL):
            self.samples[len(self._schedule.results)] = process.memory_info().rss / 2**20

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


def memory(trials: int) -> None:
    watched: list[Memory] = []
    inner = ray_tune.run

    def watch(schedule: Schedule, *arguments: object) -> list[str]:
        watched.append(Memory(schedule))
        try:
            return inner(schedule, *arguments)  # type: ignore[arg-type]
        finally:
            watched[0].close()

    with tempfile.TemporaryDirectory() as name, patch.object(ray_tune, "run", watch):
        path = study_of(trials, Path(name))
        begin = time.perf_counter()
        finished = run_study(path, place(Path(name) / "output", None), None, Console(file=io.StringIO()))
        seconds = time.perf_counter() - begin
    assert finished.complete
    print(f"\n{finished.ran} trials through one driver in {seconds:.0f} s\n| trials ended | driver, MiB |\n|---|---|")
    samples = sorted(watched[0].samples.items())
    for tenth in range(11):
        ended, size = min(samples, key=lambda sample, tenth=tenth: abs(sample[0] - tenth * trials / 10))  # type: ignore[misc]
        print(f"| {ended} | {size:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=1000)
    arguments = parser.parse_args()
    print(machine())
    cost(arguments.rounds, arguments.epochs)
    memory(arguments.trials)


if __name__ == "__main__":
    main()
