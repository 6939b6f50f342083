"""Training functions for several processes, and ones with one fault each."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradsweep import Trial, training
from tests.helpers.small_problem import TASKS as NAMES
from tests.helpers.small_problem import Batches, Net, Small
from tests.helpers.steering import Steering

TASKS = Small.tasks
EPOCHS = 3
ROWS = 12  # of a batch of 16, which two and three ranks can share


def share(trial: Trial, batch: Any) -> Any:
    """Return a rank's rows of a batch."""
    x, y = batch
    rows = slice(trial.rank, ROWS, trial.world_size)
    return x[rows], {task: values[rows] for task, values in y.items()}


def squares(model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
    out = model(batch[0])
    return {task: (out[task] - batch[1][task]).square().mean() for task in NAMES}


def measure(model: nn.Module, data: int) -> dict[str, float]:
    with torch.no_grad():
        whole = next(iter(Batches(data, 0)))
        return {task: value.item() for task, value in squares(model, whole).items()}


def network() -> Net:
    """Return a network in double precision, without dropout, which each share of a batch would draw anew."""
    torch.set_default_dtype(torch.float64)
    return Net().eval()


@training(TASKS, epochs=EPOCHS)
def shared(trial: Trial, folder: str = "", kill: int = -1) -> None:
    """Train on the joined batch of all ranks; the process of one rank is killed once, if ``kill`` names it."""
    model = network()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if dist.is_initialized() else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batches = Batches(1, trial.seed)
    balancer = trial.balancer(shared=model.trunk)
    for epoch in trial.epochs(model=model, optimizer=optimizer, order=batches.order):
        die_once(folder, trial.rank == kill and epoch == 2)
        for batch in batches:
            optimizer.zero_grad()
            balancer.backward(squares(wrapped, share(trial, batch)))
            optimizer.step()
        is_first = trial.rank == 0
        trial.report(measure(model, 2) if is_first else {}, test=lambda: measure(model, 3))


def die_once(folder: str, now: bool) -> None:
    mark = Path(folder) / "killed"
    if now and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@training(TASKS, epochs=EPOCHS)
def noisy(trial: Trial) -> None:
    """Draw other random numbers on each rank."""
    model = network()
    torch.manual_seed(trial.seed + trial.rank)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    balancer, batches = trial.balancer(shared=model.trunk), Batches(1, trial.seed + trial.rank)
    for _ in trial.epochs(model=model, optimizer=optimizer, order=batches.order):
        for x, y in batches:
            optimizer.zero_grad()
            balancer.backward(squares(wrapped, (x + torch.randn_like(x), y)))
            optimizer.step()
        trial.report(measure(model, 2), test=lambda: measure(model, 3))


@training(TASKS, epochs=4)
def counted(trial: Trial, folder: str) -> None:
    """Count starts and steps in a folder, see `Steering`, and draw other random numbers on each rank."""
    steering = Steering(folder)
    steering.started(trial.seed)
    model = network()
    torch.manual_seed(trial.seed + trial.rank)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    balancer, batches = trial.balancer(shared=model.trunk), Batches(1, trial.seed)
    for _ in trial.epochs(model=model, optimizer=optimizer, order=batches.order):
        for batch in batches:
            x, y = share(trial, batch)
            steering.step()
            optimizer.zero_grad()
            balancer.backward(squares(wrapped, (x + 0.1 * torch.randn_like(x), y)))
            optimizer.step()
        trial.report(measure(model, 2), test=lambda: measure(model, 3))


@training(TASKS, epochs=EPOCHS)
def in_own_files(trial: Trial) -> None:
    """Keep checkpoints in the trial's folder, which rank 0 writes."""
    model = network()
    torch.manual_seed(trial.seed + trial.rank)
    wrapped = DistributedDataParallel(model)
    balancer, file = trial.balancer(shared=model.trunk), trial.folder / "last.pt"
    if file.exists():
        saved = torch.load(file)
        model.load_state_dict(saved["model"])
        trial.load_state_dict(saved["trial"])
    while trial.epochs_done < trial.total_epochs:
        for _ in range(4):
            x = torch.randn(8, 4)
            wrapped.zero_grad()
            balancer.backward(squares(wrapped, (x, {task: x.sum(1) for task in NAMES})))
            torch.optim.SGD(model.parameters(), lr=0.01).step()
        trial.report(measure(model, 2), test=lambda: measure(model, 3))
        state = trial.state_dict()
        if trial.rank == 0:
            torch.save({"model": model.state_dict(), "trial": state}, file)


@training(TASKS, epochs=EPOCHS)
def sharded(trial: Trial) -> None:
    """Train a network whose parameters are divided among the ranks."""
    from torch.distributed.fsdp import fully_shard

    model = network()
    for part in (model.trunk, *model.heads.values()):
        fully_shard(part)
    fully_shard(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    balancer, batches = trial.balancer(shared=model.trunk), Batches(1, trial.seed)
    for _ in trial.epochs(model=model, optimizer=optimizer, order=batches.order):
        for batch in batches:
            optimizer.zero_grad()
            balancer.backward(squares(model, share(trial, batch)))
            optimizer.step()
        trial.report(measure(model, 2), test=lambda: measure(model, 3))


@training(TASKS, epochs=EPOCHS)
def apart(trial: Trial, fault: str = "", folder: str = "") -> None:
    """Do something on rank 1 that the others do not; without a fault, forget to join the gradients."""
    model = network()
    balancer, batch = trial.balancer(shared=model.trunk), share(trial, next(iter(Batches(1, 0))))
    if fault == "raises" and trial.rank == 1:
        raise KeyError("on rank 1")
    if fault == "waits":
        (Path(folder) / f"waits-{trial.rank}").touch()
        threading.Event().wait()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for epoch in trial.epochs(model=model):
        for _ in range(3 if fault == "longer" and trial.rank == 1 else 2):
            optimizer.zero_grad()
            losses = squares(model, batch)
            broken = fault == "diverges" and trial.rank == 1 and epoch == 1
            balancer.backward({task: loss * torch.inf if broken else loss for task, loss in losses.items()})
            optimizer.step()
        if fault == "reports_on_rank_0" and trial.rank != 0:
            continue
        if fault == "returns" and trial.rank == 1:
            return
        metrics = dict.fromkeys(NAMES, 1.0) if fault != "reports_wrong" or epoch == 0 else {"near": 1.0}
        trial.report(metrics, test=metrics.copy)
    if fault == "destroys":
        dist.destroy_process_group()


class Plain(Net):
    """The small network without dropout."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.norm(self.trunk(x)).relu()
        return {task: head(features).squeeze(1) for task, head in self.heads.items()}

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm


class Joined(Small):
    """The small problem in double precision, of which ranks can share the batches.

    Args:
        noise: whether each rank adds random numbers to its share.
        rows: of a batch.
    """

    def __init__(self, noise: bool = False, rows: int = ROWS) -> None:
        super().__init__()
        self.noise, self.rows = noise, rows

    def build_model(self, seed: int) -> nn.Module:
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(seed)
        return Plain(nn.BatchNorm1d(8) if self.noise else nn.Identity())

    def loader(self, split: Any, seed: int) -> Any:
        whole = Batches({"train": 1, "val": 2, "test": 3}[split], seed)
        return Cut(whole, self.rows) if split == "train" else whole

    def losses(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        x, y = batch
        return super().losses(model, (x + torch.randn_like(x) if self.noise else x, y))


class Counted(Joined):
    """Counts starts and steps in a folder, see `Steering`."""

    epochs = 4

    def __init__(self, folder: str) -> None:
        super().__init__(noise=True)
        self.steering = Steering(folder)

    def build_model(self, seed: int) -> nn.Module:
        self.steering.started(seed)
        return super().build_model(seed)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        if model.training:
            self.steering.step()
        return super().losses(model, batch)


class Cut:
    """The first rows of each batch."""

    def __init__(self, batches: Batches, rows: int) -> None:
        self.batches, self.rows = batches, rows

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        for x, y in self.batches:
            yield x[: self.rows], {task: values[: self.rows] for task, values in y.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.batches.order.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.batches.order.set_state(state["order"])
