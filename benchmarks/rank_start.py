"""Start of a trial: seconds from its hand-out to its first optimizer step, with new and with kept processes.

    python -m benchmarks.rank_start          # one, two and four processes per trial; about a minute

Trials run one after another, on this machine. The first one is timed from the start of Ray Tune, when no worker runs
yet; the others from the moment at which Tune hands them to a worker that has trained a trial before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch.nn.parallel import DistributedDataParallel

from gradsweep import Task, Trial, training
from hpo.core.trial import PlannedTrial
from hpo.execution.job import Job
from hpo.execution.ray_cluster import connected
from hpo.execution.ray_tune import run
from hpo.launch.restore import open_plan
from hpo.study.schedule import Schedule
from hpo.tracking.backend import machine

TRIALS = 10
TARGET = "benchmarks.rank_start:one_step"


@training([Task("one", "loss"), Task("other", "loss")], epochs=1)
def one_step(trial: Trial, file: str) -> None:
    """Make one step and write down when."""
    model = torch.nn.Linear(4, 2)
    joined = DistributedDataParallel(model) if dist.is_initialized() else model
    optimizer, balancer = torch.optim.Adam(model.parameters()), trial.balancer(shared=model)
    for _ in trial.epochs():
        one, other = joined(torch.ones(8, 4)).square().mean(0)
        balancer.backward({"one": one, "other": other})
        optimizer.step()
        if trial.rank == 0:
            with Path(file).open("a", encoding="ascii") as times:
                times.write(f"{time.time()}\n")
        metrics = {"one": 1.0, "other": 1.0}
        trial.report(metrics, test=metrics.copy)


class Starts:
    """A listener that notes when trials are handed to workers."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def trial_started(self, planned: PlannedTrial) -> None:
        del planned
        self.times.append(time.time())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: None


def measure(workers: int) -> tuple[float, list[float]]:
    """Return the seconds to the first step of the first trial and of each later one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = {
            "name": "rank-start",
            "problem": {"name": TARGET, "file": str(folder / "times")},
            "seeds": 1,
            "shortlist": "off",
            "gradnorm": "off",
            "static": {"design": "dirichlet", "points": TRIALS},
            "resources": {"workers": workers, "cpu": (os.cpu_count() or 1) / workers},
        }
        (folder / "study.yaml").write_text(yaml.safe_dump(content))
        plan, starts = open_plan(folder / "study.yaml"), Starts()
        with connected(None, plan.study.resources):
            begin = time.time()
            run(Schedule(plan), Job(plan.study.resources, str(folder / "kept"), 60.0, TARGET), [starts])
        steps = [float(line) for line in (folder / "times").read_text().splitlines()]
        kept = [step - start for step, start in zip(steps[1:], starts.times[1:], strict=True)]
        return steps[0] - begin, kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workers", nargs="*", type=int, default=[1, 2, 4])
    print(f"{machine()}\n{'processes':>9} {'new s':>8} {'kept s':>8} {'most s':>8}")
    for workers in parser.parse_args().workers:
        new, kept = measure(workers)
        print(f"{workers:>9} {new:>8.2f} {statistics.median(kept):>8.3f} {max(kept):>8.3f}")


if __name__ == "__main__":
    main()
