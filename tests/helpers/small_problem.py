"""Three linear regressions of unlike scale, and trials of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hpo.core.trial import EpochReport, TrialConfig, TrialResult
from hpo.problems.base import Problem, Split, Task
from hpo.training.trial import run_trial

TASKS = ("near", "far", "tiny")
SCALES = dict(zip(TASKS, (1.0, 10.0, 0.1), strict=True))
BATCHES = 8


class Net(nn.Module):
    """A trunk with dropout, so that a trial draws random numbers, and a head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 8)
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = nn.functional.dropout(self.trunk(x).relu(), 0.1, self.training)
        return {task: head(features).squeeze(1) for task, head in self.heads.items()}


class Small(Problem):
    """Three linear regressions of unlike scale; subclasses break one thing each."""

    tasks = tuple(Task(name, "MSE") for name in TASKS)
    epochs = 3

    def __init__(self) -> None:
        self.read: list[str] = []
        self.step = 0

    def data_hash(self) -> str:
        return "small"

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Net()

    def shared_layer(self, model: Any) -> nn.Module:
        return model.trunk

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.02)

    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        self.read.append(split)
        return Batches({"train": 1, "val": 2, "test": 3}[split], seed)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.step += 1
        x, y = batch
        out = model(x)
        return {task: (SCALES[task] * (out[task] - y[task])).square().mean() for task in reversed(TASKS)}

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        squares: dict[str, list[Tensor]] = {task: [] for task in TASKS}
        for x, y in self.batches(split, torch.device("cpu")):
            out = model(x)
            for task in TASKS:
                squares[task].append((out[task] - y[task]).square())
        return {task: float(torch.cat(found).mean()) for task, found in squares.items()}


class Batches:
    """The same examples for each seed, in another order each epoch."""

    def __init__(self, data: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(data)
        self.x = torch.randn(BATCHES * 16, 4, generator=generator)
        slopes = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0], [1.0, 0.0, 2.0], [-1.0, 1.0, 1.0]])
        self.y = self.x @ slopes
        self.order = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return BATCHES

    def __iter__(self) -> Iterator[Any]:
        for rows in torch.randperm(len(self.x), generator=self.order).chunk(BATCHES):
            yield self.x[rows], {task: self.y[rows, i] for i, task in enumerate(TASKS)}


def config(method: str = "equal", test: bool = False, seed: int = 0, **settings: Any) -> TrialConfig:
    return TrialConfig("small", {}, "small", method, settings, seed, Small.epochs, test)


SETTINGS: dict[str, dict[str, Any]] = {
    "static": {"weights": {"near": 0.5, "far": 0.05, "tiny": 2.45}},
    "equal": {},
    "single_task": {"task": "far"},
    "uncertainty": {},
    "frozen": {"rule": "gradient"},
    "gradnorm": {"recipe": "robust", "alpha": 0.5, "learning_rate": 0.05},
}


def run(trial: TrialConfig, problem: Problem | None = None, reports: list[EpochReport] | None = None) -> TrialResult:
    told = reports if reports is not None else []
    return run_trial(trial, problem or Small(), told.append, torch.device("cpu"))
