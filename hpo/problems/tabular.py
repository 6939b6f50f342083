"""The base class of built-in tabular problems: a trunk with one affine head per task, and its training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from hpo.problems.base import Split, Task, to_device
from hpo.problems.cached_problem import CachedProblem
from hpo.problems.data_cache import ordered_batches


class SharedTrunk(nn.Module):
    """A fully connected ReLU trunk read by one affine head for each task (hard parameter sharing).

    Args:
        inputs: columns of the input.
        hidden: width of each layer of the trunk.
        outputs: width of each task's head, by task name.
        seed: fixes the initial parameters (torch's standard initialisation); the global random state stays as it is.

    >>> network = SharedTrunk(inputs=8, hidden=[4, 4], outputs={"age": 1}, seed=0)
    >>> network(torch.zeros(3, 8))["age"].shape
    torch.Size([3, 1])
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: Mapping[str, int], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
            widths = [inputs, *hidden]
            layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
            self.trunk = nn.Sequential(*layers)
            self.heads = nn.ModuleDict({task: nn.Linear(widths[-1], width) for task, width in outputs.items()})

    @property
    def shared_layer(self) -> nn.Module:
        """The trunk's last affine layer: the last weights that all tasks share."""
        return self.trunk[-2]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Each task's raw output: ``x`` (B, inputs) to (B, width of the head), by task name."""
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}


class TabularProblem(CachedProblem):
    """Rows of numbers and one number to predict for each task.

    Batches are of inputs (B, columns) and targets (B, T), float32; val and test come in stored order.

    Attributes:
        columns: the tasks whose targets are cached, in their order; they include the problem's own.
        hidden: width of both layers of the trunk.
        learning_rate: of Adam.
    """

    parts = ("inputs", "targets")
    columns: Sequence[Task]
    hidden: int
    learning_rate: float

    @abstractmethod
    def _loss(self, task: Task, output: Tensor, target: Tensor) -> Tensor:
        """The loss of a task, a mean over rows; both tensors are (B,)."""

    @abstractmethod
    def _metric(self, task: Task, output: Tensor, target: Tensor) -> float:
        """The metric of a task; both tensors are (N,), on the CPU."""

    def build_model(self, seed: int) -> SharedTrunk:
        """A trunk of two layers and an affine head of width 1 for each task."""
        outputs = {task.name: 1 for task in self.tasks}
        return SharedTrunk(self._width(), [self.hidden, self.hidden], outputs, seed)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The second layer of the trunk."""
        return cast(SharedTrunk, model).shared_layer

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """The loss of each task, in its raw unit."""
        inputs, targets = batch
        outputs = model(inputs)
        return {
            task.name: self._loss(task, outputs[task.name].squeeze(1), targets[:, column])
            for column, task in enumerate(self.tasks)
        }

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """The metric of each task over all rows of the split."""
        inputs, targets = self._rows(split)
        device = next(model.parameters()).device
        chunks = [model(to_device(chunk, device)) for (chunk,) in ordered_batches((inputs,))]
        outputs = {task: torch.cat([chunk[task.name] for chunk in chunks])[:, 0].cpu() for task in self.tasks}
        return {
            task.name: self._metric(task, outputs[task], targets[:, column]) for column, task in enumerate(self.tasks)
        }

    def _width(self) -> int:
        """Columns of the input."""
        return self._rows("train")[0].shape[1]

    def _rows(self, split: Split) -> tuple[Tensor, ...]:
        """Inputs (N, columns), mapped from the cache, and targets (N, T) of this problem's tasks."""
        inputs, targets = super()._rows(split)
        return inputs, targets[:, [self.columns.index(task) for task in self.tasks]]
