"""Cost of a trial outside training, and growth of the driver's memory, by number of trials and nodes.

    python -m benchmarks.scale                                    # 10, 100 and 1,000 trials on 1, 2 and 4 nodes
    python -m benchmarks.scale --trials 10000 --raylets 2         # many minutes
    python -m benchmarks.scale --trials 1000 --raylets 2 --profile
    python -m benchmarks.scale_tables                             # writes the tables of docs/benchmarks.md

Each cell is a launch of a study whose trials train for a millisecond, in a separate process, on a number of raylets
of one CPU each, all on this machine. Time is measured from the first trial handed out to the last record in MLflow.
It is broken down in milliseconds of processor time per trial, which shows parts that grow faster than the number of
trials:

- schedule: `hpo.study.schedule.Schedule`, called from Tune's loop.
- listeners: `hpo.tracking.delivery.MlflowWriter`, which keeps an outbox, and `hpo.launch.progress.ProgressView`,
  called from the loop.
- disk: the time for which both wait, mainly for the outbox to be on the disk; on a busy machine also for a core.
- Tune: the rest of the loop. In the remaining time the loop waits.
- writer: the thread that writes to MLflow, in parallel with the loop.

Before that, the schedule alone processes the same number of trials, without training and without Ray.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import os
import pstats
import random
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import yaml
from rich.console import Console

from benchmarks.sweep import search_only
from hpo.core.environment import close_local_ray
from hpo.core.files import write_whole
from hpo.core.trial import AVERAGES, TrialResult
from hpo.launch import run as launch
from hpo.launch.restore import open_plan
from hpo.launch.run import run_study
from hpo.launch.workspace import place
from hpo.study.plan import Plan
from hpo.study.schedule import Next, Schedule
from hpo.tracking.backend import machine
from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.outbox import EndedTrial

REFERENCES = 2  # single-task networks of the trivial problem
ALPHAS = 3  # of a study that goes through Ray
AT_ONCE = 5  # trials that the schedule by itself has out
PROFILED = 12  # functions shown


def study_of(trials: int, alphas: int, cohort: str, folder: Path) -> Path:
    """Return a study of this number of trials without confirm phase: references, alphas, and static points."""
    content = {
        "name": "scale",
        "problem": "benchmarks.trivial:Trivial",
        "references": ["single_task", "equal"],
        "shortlist": "off",
        "static": {"design": "dirichlet", "points": trials - alphas - REFERENCES},
        "gradnorm": {"recipes": ["robust"], "trials": alphas},
        "cohort": cohort if cohort == "auto" else int(cohort),
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


class Stopwatch:
    """Measures seconds by name: wall-clock time and this thread's processor time."""

    def __init__(self) -> None:
        self.clock: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        clock, busy = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.clock[name] += time.perf_counter() - clock  # type: ignore[assignment]
            self.busy[name] += time.thread_time() - busy  # type: ignore[assignment]

    def on(self, inner: Any, name: str) -> Any:
        """Return a replacement of an object that times every call."""
        return _Timed(self, inner, name)


class _Timed:
    def __init__(self, watch: Stopwatch, inner: Any, name: str) -> None:
        self._watch, self._inner, self._name = watch, inner, name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self._inner, attribute)
        if not callable(found):
            return found

        def timed(*arguments: Any) -> Any:
            with self._watch.running(self._name):
                return found(*arguments)

        return timed


# ---- a launch on a cluster


@dataclass(frozen=True)
class Cell:
    """The figures of a launch; those in milliseconds are means per trial."""

    trials: int
    raylets: int
    cohort: str
    seconds: float  # a trial
    schedule_ms: float
    listeners_ms: float
    disk_ms: float
    tune_ms: float
    writer_ms: float
    last_s: float  # the writer's, after the last trial
    memory_mib: float  # by which the driver has grown
    report_s: float


HEADS = (
    "trials",
    "raylets",
    "cohort",
    "s a trial",
    "schedule, ms",
    "listeners, ms",
    "disk, ms",
    "Tune, ms",
    "writer, ms",
    "delivery after the last trial, s",
    "driver grew, MiB",
    "compare and report, s",
)


def cell(trials: int, raylets: int, cohort: str, tracked: bool, profiled: bool) -> tuple[Cell, str]:
    """Launch a study on a new cluster; return its figures and the profile of the loop."""
    watch, profile = Stopwatch(), cProfile.Profile() if profiled else None
    with tempfile.TemporaryDirectory(prefix="gradsweep-benchmark-") as name, nodes(raylets) as address:
        path, where = study_of(trials, ALPHAS, cohort, Path(name)), place(Path(name) / "output", None)
        with search_only(), instrumented(watch, tracked, profile) as memory:
            begin = time.perf_counter()
            finished = run_study(path, where, address, Console(file=io.StringIO()))
            watch.clock["all"] += time.perf_counter() - begin  # type: ignore[assignment]
    if not finished.complete or finished.failed or finished.faults:
        raise RuntimeError(f"{finished.failed or finished.faults or 'it was stopped'}")
    clock, busy, each = watch.clock, watch.busy, 1000 / finished.ran
    ours = busy["schedule"] + busy["listeners"]
    figures = Cell(
        trials=finished.ran,
        raylets=raylets,
        cohort=cohort,
        seconds=(clock["loop"] + clock["close"]) / finished.ran,
        schedule_ms=each * busy["schedule"],
        listeners_ms=each * busy["listeners"],
        disk_ms=each * (clock["schedule"] + clock["listeners"] - ours),
        tune_ms=each * (busy["loop"] - ours),
        writer_ms=each * busy["writer"],
        last_s=clock["close"],
        memory_mib=memory[-1] - memory[0],
        report_s=clock["conclude"],
    )
    return figures, _top(profile) if profile else ""


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """Start a cluster of this number of raylets of one CPU each; yield its address."""
    from ray.cluster_utils import Cluster  # here: ray reads once, at its import, which token it listens to

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(count - 1):
            cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


@contextmanager
def instrumented(watch: Stopwatch, tracked: bool, profile: cProfile.Profile | None) -> Iterator[list[float]]:
    """Time the parts of a launch; yield the driver's memory in MiB, before the first trial and after the last."""
    from hpo.execution import ray_tune
    from hpo.execution.job import Job

    memory: list[float] = []
    process, run = psutil.Process(), ray_tune.run

    def timed_run(schedule: Schedule, job: Job, listeners: Sequence[Any], *more: Any) -> list[str]:
        told = [watch.on(one, "listeners") for one in listeners if tracked or not isinstance(one, MlflowWriter)]
        memory.append(process.memory_info().rss / 2**20)
        with watch.running("loop"), profile or ExitStack():
            return run(watch.on(schedule, "schedule"), job, told, *more)

    def timed(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with watch.running(name):
                return inner(*arguments, **named)

        return call

    def closed(writer: MlflowWriter) -> list[EndedTrial]:
        with watch.running("close"):
            left = close(writer)
        memory.append(process.memory_info().rss / 2**20)
        return left

    close = MlflowWriter.close
    with ExitStack() as patches:
        patches.enter_context(patch.object(ray_tune, "run", timed_run))
        patches.enter_context(patch.object(MlflowWriter, "close", closed))
        patches.enter_context(patch.object(MlflowWriter, "_work", timed("writer", MlflowWriter._work)))
        for part in ("assess", "conclude"):
            patches.enter_context(patch.object(launch, part, timed("conclude", getattr(launch, part))))
        yield memory


def _top(profile: cProfile.Profile) -> str:
    """Return the functions in which the loop spends most time."""
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(PROFILED)
    return text.getvalue()


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, without earlier imports and without the memory of other cells."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# ---- the schedule by itself


@dataclass(frozen=True)
class Alone:
    """The figures of the schedule without Ray: mean milliseconds per trial, and the time of one progress query."""

    trials: int
    alphas: int
    next_ms: float
    finished_ms: float
    look_ms: float


def alone(trials: int, alphas: int) -> Alone:
    """Run a schedule through all its trials with made-up results."""
    watch, numbers = Stopwatch(), random.Random(0)
    with tempfile.TemporaryDirectory() as name, search_only():
        plan = open_plan(study_of(trials, alphas, "1", Path(name)))
        schedule = Schedule(plan)
        out: deque[str] = deque()
        while True:
            with watch.running("next"):
                planned = schedule.next()
            if planned is Next.FINISHED:
                break
            if not isinstance(planned, Next):
                out.append(planned.config.identity)
            if planned is Next.WAIT or len(out) >= AT_ONCE:
                with watch.running("finished"):
                    schedule.finished(out.popleft(), made_up(plan, numbers))
        with watch.running("look"):
            schedule.progress()
    each = 1000 / len(schedule.results)
    times = each * watch.clock["next"], each * watch.clock["finished"], 1000 * watch.clock["look"]
    return Alone(len(schedule.results), alphas, *times)


def made_up(plan: Plan, numbers: random.Random) -> TrialResult:
    """Return a made-up result."""
    return TrialResult(
        "finished",
        validation={task: 0.5 + numbers.random() for task in plan.tasks},
        averages={average: dict.fromkeys(plan.tasks, 1.0) for average in AVERAGES},
    )


# ---- the tables


def row(figures: Cell | Alone) -> str:
    values = [getattr(figures, one.name) for one in fields(figures)]
    return f"| {' | '.join(f'{value:.3f}' if isinstance(value, float) else str(value) for value in values)} |"


def keep(content: dict[str, Any], path: Path | None) -> None:
    """Write the figures so far, with the load of the machine in the last quarter of an hour."""
    content["load"] = max(content["load"], round(os.getloadavg()[2], 1))
    if path:
        write_whole(path, json.dumps(content, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument(
        "--raylets", nargs="*", type=int, default=[1, 2, 4], help="none: the schedule by itself alone"
    )
    parser.add_argument("--alphas", nargs="*", type=int, default=[3, 30], help="of the schedule by itself")
    parser.add_argument("--cohort", default="1", help="trials that a worker trains at once: a number, or auto")
    parser.add_argument("--tracked", action=argparse.BooleanOptionalAction, default=True, help="write to MLflow")
    parser.add_argument("--profile", action="store_true", help="of Tune's loop; slows it")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    close_local_ray()  # every cluster below listens to one token
    content: dict[str, Any] = {"machine": machine(), "load": 0.0, "alone": [], "cells": []}
    print(f"{machine()}\n\nThe schedule by itself\n\n| trials | alphas | next, ms | finished, ms | a look, ms |")
    print("|---|---|---|---|---|")
    for trials in arguments.trials:
        for alphas in arguments.alphas:
            if alphas + REFERENCES < trials:
                content["alone"].append(asdict(one := alone(trials, alphas)))
                print(row(one), flush=True)
    keep(content, arguments.json)
    if arguments.raylets:
        untracked = "" if arguments.tracked else ", without MLflow"
        print(f"\nA launch, cohort: {arguments.cohort}{untracked}\n\n| {' | '.join(HEADS)} |")
        print(f"|{'---|' * len(HEADS)}")
    profiles = []
    for trials in arguments.trials:
        for raylets in arguments.raylets:
            found, profile = in_fresh_process(
                cell, trials, raylets, arguments.cohort, arguments.tracked, arguments.profile
            )
            content["cells"].append(asdict(found))
            profiles += [f"\n{trials} trials, {raylets} raylets\n{profile}"] if profile else []
            print(row(found), flush=True)
            keep(content, arguments.json)
    print("".join(profiles))


if __name__ == "__main__":
    main()
