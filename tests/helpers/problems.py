"""Problems for the end-to-end tests: they train in milliseconds and are controlled by files in a folder.

A study names them ``tests.helpers.problems:Class`` and runs from the repository root.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpo.problems.base import Problem, Split, Task
from tests.helpers.steering import Steering


class Steered(Problem):
    """Two small regressions. Each start of a training run has a number; files say what happens to it.

    Args:
        folder: with ``starts``, a line for each start, ``devices``, a line for each evaluation, and ``steer.json``
            with any of

            - ``fail``, ``nan``, ``kill``: numbers of the starts that raise in the second epoch, have a NaN loss in
              the first step, or kill their own process; ``nan_all``: every one; ``kill_from``: that and all later;
            - ``message``: what those that raise say;
            - ``hang``, ``memory``, ``disk``: numbers of the starts that never come back from their second epoch, ask
              for more memory than there is, or write to a full disk;
            - ``block``: starts above this number wait in their second epoch as long as the file says so.
        width: of the network.
    """

    tasks = (Task("near", "MSE"), Task("far off", "R2", "maximize"))
    epochs = 2

    def __init__(self, folder: str, width: int = 4) -> None:
        self.folder, self.width, self.steering = folder, width, Steering(folder)
        self._start = self._epoch = 0

    def data_hash(self) -> str:
        other = os.environ.get("STEERED_DATA")  # as if the data had been exchanged
        return f"steered-{self.width}{f'-{other}' if other else ''}"

    def build_model(self, seed: int) -> nn.Module:
        self._start, self._epoch = self.steering.started(seed), 0
        if self._start in self.steering.read("kill", []) or self._start >= self.steering.read(
            "kill_from", self._start + 1
        ):
            os.kill(os.getpid(), signal.SIGKILL)
        torch.manual_seed(seed)
        heads = {task.name: nn.Linear(self.width, 1) for task in self.tasks}
        return nn.ModuleDict({"trunk": nn.Linear(3, self.width), **heads})

    def shared_layer(self, model: nn.Module) -> nn.Module:
        return model.get_submodule("trunk")

    def loader(self, split: Split, seed: int) -> Iterable[Tensor]:
        examples = self.examples(split, seed)
        return _Batches(self, list(examples.split(16))) if split == "train" else [examples]

    def examples(self, split: Split, seed: int = 0) -> Tensor:
        number = {"train": seed + 10, "val": 1, "test": 2}[split]
        return torch.randn(64, 3, generator=torch.Generator().manual_seed(number))

    def losses(self, model: Any, batch: Tensor) -> dict[str, Tensor]:
        features = model["trunk"](batch).tanh()
        near, far = model["near"](features)[:, 0], model["far off"](features)[:, 0]
        spoilt = float("nan") if self._is_spoilt() else 1.0
        return {
            "near": spoilt * (near - batch[:, 0]).square().mean(),
            "far off": 100 * (far - batch[:, 1] * batch[:, 2]).square().mean(),
        }

    def evaluate(self, model: Any, split: Split) -> dict[str, float]:
        device = next(model.parameters()).device
        with (Path(self.folder) / "devices").open("a") as file:
            file.write(f"{device.type}\n")
        examples = self.examples(split).to(device)
        losses = self.losses(model, examples)
        variance = float((examples[:, 1] * examples[:, 2]).var())
        return {"near": float(losses["near"]), "far off": 1 - float(losses["far off"]) / 100 / variance}

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.03)

    def begin_epoch(self) -> None:
        """Fail or wait in the second epoch, if the files say so."""
        self._epoch += 1
        if self._epoch != 2:
            return
        if self._start in self.steering.read("fail", []):
            raise OSError(self.steering.read("message", f"the disk of start {self._start} is full"))
        if self._start in self.steering.read("hang", []):
            threading.Event().wait()
        if self._start in self.steering.read("memory", []):
            torch.empty(2**50)
        if self._start in self.steering.read("disk", []):
            Path("/dev/full").write_text("x")
        if self._start > self.steering.read("block", self._start):
            with (Path(self.folder) / "blocked").open("a") as file:
                file.write(f"{self._start}\n")
        while self._start > self.steering.read("block", self._start):
            time.sleep(0.05)

    def _is_spoilt(self) -> bool:
        return self._epoch == 1 and (
            self._start in self.steering.read("nan", []) or self.steering.read("nan_all", False)
        )


class Lacking(Problem):
    """Has no `evaluate` and no `loader`."""

    tasks = (Task("only", "MSE"),)
    build_model = Steered.build_model
    shared_layer = Steered.shared_layer
    losses = Steered.losses


class Branching(Steered):
    """Looks at the value of a loss, so that its trials cannot be trained at once."""

    def losses(self, model: Any, batch: Tensor) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        return {name: loss if float(loss.detach()) >= 0 else -loss for name, loss in losses.items()}


class Named(Steered):
    """Its tasks are called as the study says."""

    def __init__(self, task: str) -> None:
        self.tasks = (Task(task, "MSE"), Task("other", "MSE"))


class _Batches:
    """The training batches; tells the problem when an epoch begins."""

    def __init__(self, problem: Steered, batches: list[Tensor]) -> None:
        self._problem, self._batches = problem, batches

    def __iter__(self) -> Any:
        self._problem.begin_epoch()
        return iter(self._batches)


class Counted(Steered):
    """Writes a byte to ``steps`` at each step, so that who kills it can say when, and takes a while for each.

    Args:
        folder: see `Steered`; ``steer.json`` may have ``seconds``, how long a step takes, and ``hold``: every step
            waits as long as the file says so.
    """

    epochs = 4

    def data_hash(self) -> str:
        return "counted"

    def losses(self, model: Any, batch: Tensor) -> dict[str, Tensor]:
        if model.training:
            self.steering.step()
            batch = batch + 0.01 * torch.randn_like(batch)  # the state of torch's own generator counts
        return super().losses(model, batch)
