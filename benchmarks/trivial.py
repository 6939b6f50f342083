"""A problem that trains in a millisecond, so that what is left is the price of running trials at all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hpo.problem import Problem, Split, Task


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
