"""A problem that trains in a millisecond, so that the remaining time is the overhead of running trials."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hpo.problems.base import Problem, Split, Task


class Trivial(Problem):
    """Two linear regressions on eight examples, one step."""

    tasks = (Task("a", "MSE"), Task("b", "MSE"))
    epochs = 1

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.ModuleDict({"trunk": nn.Linear(2, 2), "a": nn.Linear(2, 1), "b": nn.Linear(2, 1)})

    def shared_layer(self, model: nn.Module) -> nn.Module:
        return model.get_submodule("trunk")

    def loader(self, split: Split, seed: int) -> Iterable[Tensor]:
        del split
        return [torch.randn(8, 2, generator=torch.Generator().manual_seed(seed))]

    def losses(self, model: Any, batch: Tensor) -> dict[str, Tensor]:
        features = model["trunk"](batch)
        return {task.name: (model[task.name](features) - batch[:, :1]).square().mean() for task in self.tasks}

    def evaluate(self, model: Any, split: Split) -> dict[str, float]:
        return {name: float(loss) for name, loss in self.losses(model, next(iter(self.loader(split, 0)))).items()}


class Paced(Trivial):
    """Twelve tasks, and steps of a size that the benchmark chooses: 60 metrics per epoch with GradNorm.

    Args:
        products: matrix products before each step.
        epochs: of a trial.
    """

    tasks = tuple(Task(f"t{i:02d}", "MSE") for i in range(12))

    def __init__(self, products: int, epochs: int = 5) -> None:
        self.products, self.epochs = products, epochs
        self._ballast = torch.randn(192, 192, generator=torch.Generator().manual_seed(0)) / 14

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        heads = {task.name: nn.Linear(2, 1) for task in self.tasks}
        return nn.ModuleDict({"trunk": nn.Linear(2, 2), **heads})

    def losses(self, model: Any, batch: Tensor) -> dict[str, Tensor]:
        if model.training:
            self.work()
        return super().losses(model, batch)

    def work(self) -> None:
        """Spend the time of a real network's step."""
        x = self._ballast
        for _ in range(self.products):
            x = torch.tanh(x @ self._ballast)
