"""Training functions of the small problem: one that is right, and ones with one fault each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from gradsweep import Trial, training
from hpo.problems.training_function import FunctionProblem, TrainingFunction
from tests.helpers.small_problem import Batches, Net, Small

TASKS = Small.tasks
EPOCHS = 3


def loader_of(seed: int) -> DataLoader[Any]:
    """Return the batches of `Small` in an order that a generator draws."""
    x, y = (whole := Batches(1, 0)).x, whole.y
    rows = TensorDataset(x, *y.T)
    order = torch.Generator().manual_seed(seed)
    return DataLoader(rows, batch_size=16, shuffle=True, generator=order, collate_fn=collated)


def collated(rows: list[Any]) -> Any:
    x, *y = (torch.stack(column) for column in zip(*rows, strict=True))
    return x, dict(zip(("near", "far", "tiny"), y, strict=True))


class Loaded(Small):
    """The small problem with a DataLoader."""

    def loader(self, split: Any, seed: int) -> Any:
        return loader_of(seed) if split == "train" else super().loader(split, seed)


def measure(model: Net, split: Any) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        return Loaded().evaluate(model, split)


@training(TASKS, epochs=EPOCHS)
def right(trial: Trial, lr: float = 0.02, decay: float = 1.0) -> None:
    """Train the small network as `Loaded` does."""
    train_small(trial, lr, decay)


@training(TASKS, epochs=EPOCHS)
def killed_once(trial: Trial, folder: str) -> None:
    """Kill the process in the second epoch of the first trial that comes there."""

    def on_epoch(epoch: int) -> None:
        mark = Path(folder) / "killed"
        if epoch == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    train_small(trial, 0.02, 0.9, on_epoch)


def train_small(trial: Trial, lr: float, decay: float, on_epoch: Callable[[int], object] = repr) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = StepLR(optimizer, 1, decay)
    batches = loader_of(trial.seed)
    balancer = trial.balancer(shared=model.trunk)
    for epoch in trial.epochs(model=model, optimizer=optimizer, schedule=schedule, loader=batches, scaler=None):
        on_epoch(epoch)
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            balancer.backward(Loaded().losses(model, batch))
            optimizer.step()
        schedule.step()
        trial.report(
            measure(model, "val"), test=lambda: measure(model, "test"), train=lambda: measure(model, "train")
        )


@training(TASKS, epochs=EPOCHS)
def own_files(trial: Trial) -> None:
    """Write checkpoints in the trial's folder, in a loop without `Trial.epochs`."""
    model, batches = Net(), Batches(1, trial.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    loss = trial.balancer(shared=model.trunk)
    file = trial.folder / "last.pt"
    if file.exists():
        saved = torch.load(file)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        batches.order.set_state(saved["order"])
        trial.load_state_dict(saved["trial"])
    while trial.epochs_done < trial.total_epochs:
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            loss(Loaded().losses(model, batch)).backward()
            optimizer.step()
        trial.report(measure(model, "val"), test=lambda: measure(model, "test"))
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(states | {"order": batches.order.get_state(), "trial": trial.state_dict()}, file)


@training(TASKS, epochs=EPOCHS)
def by_numbers(trial: Trial) -> None:
    """Train with plain numbers."""
    model, batches, w = Net(), Batches(1, trial.seed), trial.weights
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in trial.epochs(model=model, optimizer=optimizer, order=batches.order):
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            sum(w[task] * loss for task, loss in Loaded().losses(model, batch).items()).backward()
            optimizer.step()
        trial.report(measure(model, "val"), test=lambda: measure(model, "test"))


def one_step(trial: Trial) -> Net:
    model = Net()
    trial.balancer(shared=model.trunk).backward(Loaded().losses(model, next(iter(Batches(1, 0)))))
    return model


def metrics(**changed: Any) -> dict[str, Any]:
    return dict.fromkeys(("near", "far", "tiny"), 1.0) | changed


def faulty(body: Callable[[Trial], object]) -> FunctionProblem:
    """Return the problem of a function with this body."""
    return FunctionProblem(TrainingFunction(body, TASKS, EPOCHS, "faulty"), {})


def reports(trial: Trial, **changed: Any) -> None:
    trial.report(metrics(**changed), test=metrics)


def never_reports(trial: Trial) -> None:
    one_step(trial)


def reports_an_unknown_task(trial: Trial) -> None:
    one_step(trial)
    reports(trial, other=1.0)


def misses_a_task(trial: Trial) -> None:
    one_step(trial)
    trial.report({"near": 1.0, "far": 2.0}, test=metrics)


def reports_text(trial: Trial) -> None:
    one_step(trial)
    reports(trial, far="0.5")


def returns_early(trial: Trial) -> None:
    one_step(trial)
    reports(trial)


def exits(trial: Trial) -> None:
    sys.exit(3)


def has_no_balancer(trial: Trial) -> None:
    reports(trial)


def does_not_use_its_balancer(trial: Trial) -> None:
    trial.balancer(shared=Net().trunk)
    reports(trial)


def reads_the_test_split(trial: Trial) -> None:
    one_step(trial)
    trial.report(metrics(), test=metrics())


def reports_twice(trial: Trial) -> None:
    for _ in trial.epochs():
        one_step(trial)
        reports(trial)
        reports(trial)


def reports_too_often(trial: Trial) -> None:
    balancer, model = trial.balancer(shared=(net := Net()).trunk), net
    for _ in range(EPOCHS + 1):
        balancer.backward(Loaded().losses(model, next(iter(Batches(1, 0)))))
        reports(trial)


def skips_a_report(trial: Trial) -> None:
    for _ in trial.epochs():
        pass


def hands_over_a_number(trial: Trial) -> None:
    trial.epochs(model=3)


def catches_everything(trial: Trial) -> None:
    try:
        one_step(trial)
        reports(trial, near=float("nan"))
    except BaseException:
        reports(trial)


def raises_in_place_of_the_end(trial: Trial) -> None:
    try:
        one_step(trial)
        reports(trial, near=float("nan"))
    except BaseException as error:
        raise RuntimeError("cleaning up failed") from error


def leaves_a_process(trial: Trial) -> None:
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True).start()
    balancer, model = trial.balancer(shared=(net := Net()).trunk), net
    for _ in trial.epochs():
        balancer.backward(Loaded().losses(model, next(iter(Batches(1, 0)))))
        reports(trial)
