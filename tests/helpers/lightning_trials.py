"""The small problem as a LightningModule, and training functions that fit it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from balancers.frameworks.lightning import BalancerCallback
from gradsweep import Trial, training
from gradsweep.lightning import TrialCallback
from tests.helpers.small_problem import TASKS, Batches, Net
from tests.helpers.training_functions import EPOCHS, Loaded, loader_of


class Module(lightning.LightningModule):
    """A network with dropout and the callback of production."""

    balancer: Any

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def configure_callbacks(self) -> list[lightning.Callback]:
        return [BalancerCallback(self.balancer)]

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.balancer(Loaded().losses(self.net, batch))

    def validation_step(self, batch: Any, index: int) -> None:
        self.measure("val", batch)

    def test_step(self, batch: Any, index: int) -> None:
        self.measure("test", batch)

    def measure(self, split: str, batch: Any) -> None:
        x, y = batch
        out = self.net(x)
        self.log_dict({f"{split}_{task}": (out[task] - y[task]).square().mean() for task in TASKS})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=0.02)


class Scheduled(Module):
    """A schedule that follows a metric, which Lightning moves on after other callbacks have seen the epoch."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_far"}}


class Data(lightning.LightningDataModule):
    """The splits of the small problem; that of training is shuffled."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def train_dataloader(self) -> Any:
        return loader_of(self.seed)

    def val_dataloader(self) -> Any:
        return whole(2)

    def test_dataloader(self) -> Any:
        return whole(3)


def whole(split: int) -> DataLoader[Any]:
    """Return a split as one batch."""
    rows = Batches(split, 0)
    batches: Any = [(rows.x, dict(zip(TASKS, rows.y.T, strict=True)))]
    return DataLoader(batches, batch_size=None)


def names(split: str) -> dict[str, str]:
    return {task: f"{split}_{task}" for task in TASKS}


def fit(
    trial: Trial,
    module: Any,
    validation: Any = None,
    checkpoint: str | None = None,
    callbacks: Any = (),
    **settings: Any,
) -> None:
    module.balancer = trial.balancer(shared=module.net.trunk)
    callback = TrialCallback(trial, validation or names("val"), names("test"))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    given = {"max_epochs": trial.total_epochs, "accelerator": "cpu", "devices": 1}
    trainer = lightning.Trainer(callbacks=[callback, *callbacks], **quiet | given | settings)
    trainer.fit(module, datamodule=Data(trial.seed), ckpt_path=checkpoint or callback.checkpoint)


@training(Loaded.tasks, epochs=EPOCHS)
def plain(trial: Trial) -> None:
    """Train as `training_functions.right` does."""
    fit(trial, Module())


@training(Loaded.tasks, epochs=EPOCHS)
def scheduled(trial: Trial) -> None:
    """Train with accumulation and a schedule."""
    fit(trial, Scheduled(), accumulate_grad_batches=2)


class KilledOnce(lightning.Callback):
    """Kills the process in the second epoch of the first trial that comes there."""

    def __init__(self, folder: str) -> None:
        self.mark = Path(folder) / "killed"

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 1 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@training(Loaded.tasks, epochs=EPOCHS)
def killed_once(trial: Trial, folder: str) -> None:
    """Kill a worker once."""
    fit(trial, Scheduled(), callbacks=[KilledOnce(folder)])
