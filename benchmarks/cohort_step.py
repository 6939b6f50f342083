"""Seconds per step and trial of cohorts: static trials, GradNorm trials, and both in one cohort.

    python -m benchmarks.cohort_step                    # toy, census and qm9, one thread: two minutes

All cohorts of a problem take their steps in turn in one process, on the same batch; shown is the minimum over the
rounds, since other load can only add time, divided by the number of trials. "mixed" is half static, half GradNorm:
its gain is what the two halves take apart, divided by what they take in one cohort.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from hpo.core.trial import TrialConfig
from hpo.problems import load_problem
from hpo.problems.base import Problem
from hpo.training.parts import Parts
from hpo.training.stacked_engine import StackedEngine

PROBLEMS = {
    "toy": {},
    "toy, 10 tasks": {"functions": 10},
    "census": {"preset": "small", "batch_size": 1024},
    "qm9": {"preset": "small", "targets": 5},
}
DEVICE = torch.device("cpu")


def configs(problem: Problem, name: str, static: int, gradnorm: int) -> list[TrialConfig]:
    """Return the trials of a cohort."""
    tasks = [task.name for task in problem.tasks]
    settings = [("static", {"weights": dict.fromkeys(tasks, 1.0)})] * static
    settings += [("gradnorm", {"recipe": "direct", "alpha": 0.1 * k}) for k in range(gradnorm)]
    shared = {"problem": name, "arguments": {}, "data_hash": "", "seed": 0, "epochs": 1, "test": False}
    return [TrialConfig(method=method, settings=own, **shared) for method, own in settings]


def step_of(problem: Problem, trials: list[TrialConfig], device: torch.device = DEVICE) -> Callable[[], None]:
    """Return a function that takes one training step of a cohort."""
    parts = Parts.build(problem, 0, device)
    parts.model.train()
    batch = next(iter(parts.order.epoch()))
    engine = StackedEngine(problem, parts, trials, device)

    def step() -> None:
        engine.step(engine.losses(batch))

    for _ in range(3):  # first steps start the balancers
        step()
    return step


def least(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """Return the least seconds of each step, taken in turn."""
    found = dict.fromkeys(steps, float("inf"))
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def main() -> None:
    """Print a row for each problem and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--seconds", type=float, default=8.0, help="per row")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| problem | trials | static, ms | GradNorm / static | mixed / static | gain of mixing |")
    print("|---|---|---|---|---|---|")
    for name in given.problems:
        problem = load_problem(name.split(",")[0], PROBLEMS[name])
        problem.prepare()
        for size in (2, 4, 8, 16):
            cohorts = {"static": (size, 0), "gradnorm": (0, size), "mixed": (size // 2, size // 2)}
            cohorts |= {"half static": (size // 2, 0), "half gradnorm": (0, size // 2)}
            steps = {kind: step_of(problem, configs(problem, name, *counts)) for kind, counts in cohorts.items()}
            took = least(steps, given.seconds)
            apart = took["half static"] + took["half gradnorm"]
            ratios = [took["gradnorm"] / took["static"], took["mixed"] / took["static"], apart / took["mixed"]]
            each = 1000 * took["static"] / size
            print(f"| {name} | {size} | {each:.2f} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


if __name__ == "__main__":
    main()
