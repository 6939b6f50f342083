"""Problems whose arguments a study may or may not tune."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hpo.problems.base import Split, Task
from tests.helpers.small_problem import Small


class Tunable(Small):
    """`Small` with a learning rate, which its data do not depend on."""

    def __init__(self, learning_rate: float = 0.02, width: int = 8) -> None:
        super().__init__()
        self.learning_rate, self.width = learning_rate, width

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)


class OwnData(Tunable):
    """One whose hash is the default one, and whose rows depend on an argument."""

    data_hash = Small.__mro__[1].data_hash

    def __init__(self, learning_rate: float = 0.02, rows: int = 4, batch: int = 2) -> None:
        super().__init__(learning_rate)
        self.table = torch.arange(rows)
        self.batch = batch

    def loader(self, split: Split, seed: int) -> Any:
        return self.table.split(self.batch)


class OwnHash(Tunable):
    """One whose own hash depends on an argument."""

    def __init__(self, learning_rate: float = 0.02, rows: int = 4) -> None:
        super().__init__(learning_rate)
        self.rows = rows

    def data_hash(self) -> str:
        return f"rows {self.rows}"


class MoreTasks(Tunable):
    """One whose tasks depend on an argument, and its epochs on another."""

    def __init__(self, more: int = 0, epochs: int = 3, name: str = "required") -> None:
        super().__init__()
        self.tasks = (*Small.tasks, *(Task(f"task {k}", "MSE") for k in range(more)))
        self.epochs = epochs


class Refusing(Tunable):
    """One that refuses a learning rate above 1."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        if learning_rate > 1:
            raise ValueError("learning_rate must be at most 1")
        super().__init__(learning_rate)
