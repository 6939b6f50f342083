"""The GradNorm paper's toy under choices that the paper leaves open: python -m benchmarks.toy_choices

Two tasks, sigma 1 and 100, Adam, one seed. Printed for each choice: the test error over sigma^2 of both tasks
(predicting 0 gives 0.79 with short inputs, about 0.98 with normal ones), and the exponent p of the final weights,
``w_2 / w_1 = sigma_2 ** -p``: 1 for weights proportional to 1/sigma, 2 for 1/sigma^2.
"""

from __future__ import annotations

import argparse
import itertools
import math

import torch
from rich.console import Console
from rich.table import Table

from hpo.core.trial import TrialConfig, TrialResult
from hpo.problems.toy import Toy
from hpo.training.trial import run_trial

CHOICES = {"heads": ("plain", "scaled"), "inputs": ("short", "normal"), "examples": ("fixed", "stream")}
SIGMA = 100.0
METHODS = {
    "single task": None,
    "equal": ("equal", {}),
    "1/sigma": ("static", {"weights": {"f1": 1.0, "f2": 1 / SIGMA}}),
    "1/sigma^2": ("static", {"weights": {"f1": 1.0, "f2": 1 / SIGMA**2}}),
    "uncertainty": ("uncertainty", {}),
    "GradNorm paper, 0.12": ("gradnorm", {"recipe": "paper", "alpha": 0.12}),
    "GradNorm robust, 0.12": ("gradnorm", {"recipe": "robust", "alpha": 0.12}),
}


def train(toy: Toy, method: str, settings: dict[str, object], seed: int) -> TrialResult:
    config = TrialConfig("toy", {}, "", method, settings, seed, toy.epochs, test=True)
    result = run_trial(config, toy, lambda _: None, torch.device("cpu"))
    if result.status != "finished":
        raise SystemExit(f"{method} {result.status}: {result.error}")
    return result


def cells(toy: Toy, name: str, seed: int) -> list[str]:
    method = METHODS[name]
    if method is None:
        errors = [train(toy, "single_task", {"task": task}, seed).test[task] for task in ("f1", "f2")]
        return [*(f"{error:.3f}" for error in errors), "-"]
    result = train(toy, *method, seed)
    w = result.trajectory["w"][-1]
    return [*(f"{result.test[task]:.3f}" for task in ("f1", "f2")), f"{math.log(w[0] / w[1]) / math.log(SIGMA):.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30, help="of 5,000 examples, 50 steps each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("heads", "inputs", "examples", "method", "f1", "f2", "p at the end", box=None)
    for choice in itertools.product(*CHOICES.values()):
        toy = Toy(2, epochs=arguments.epochs, **dict(zip(CHOICES, choice, strict=True)))
        for name in METHODS:
            table.add_row(*choice, name, *cells(toy, name, arguments.seed))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
