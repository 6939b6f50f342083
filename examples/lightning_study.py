"""A study over a LightningModule: from the upper half of a digit tell the digit, its ink and its lower half.

Run: gradsweep run examples/lightning_study.yaml
"""

import lightning
import torch
from torch.utils.data import DataLoader

from balancers import Static
from examples.plain_training import Network, data, losses  # your network and your data
from examples.training_function import TASKS
from gradsweep import training


class HalfDigits(lightning.LightningModule):
    """The module of production; a balancer weighs its losses."""

    def __init__(self, lr=1e-3):
        super().__init__()
        self.lr, self.network = lr, Network()
        self.balancer = Static(["digit", "ink", "lower_half"], {"digit": 1, "ink": 0.01, "lower_half": 0.1})

    def training_step(self, batch, index):
        return self.balancer(losses(self.network, batch))

    def validation_step(self, batch, index):
        self.log_dict({f"val_{task}": metric for task, metric in self.metrics(batch).items()})

    def test_step(self, batch, index):
        self.log_dict({f"test_{task}": metric for task, metric in self.metrics(batch).items()})

    def metrics(self, batch):
        images, digits = batch
        squares = losses(self.network, batch)
        accuracy = (self.network(images[:, :32])[0].argmax(1) == digits).float().mean()
        return {"digit": accuracy} | {task: squares[task].sqrt() for task in ("ink", "lower_half")}

    def configure_optimizers(self):
        return torch.optim.Adam(self.network.parameters(), lr=self.lr)


def loaders(seed):
    order = torch.Generator().manual_seed(seed)
    train = DataLoader(data("train"), batch_size=50, shuffle=True, generator=order)
    return train, *(DataLoader(data(split), batch_size=len(data(split))) for split in ("val", "test"))


@training(TASKS, epochs=20)
def train(trial, lr: float = 1e-3):
    from gradsweep.lightning import TrialCallback

    module = HalfDigits(lr)
    module.balancer = trial.balancer(shared=module.network.trunk[2])  # the last layer that all tasks share
    train_loader, val_loader, test_loader = loaders(trial.seed)
    callback = TrialCallback(
        trial,
        validation={task.name: f"val_{task.name}" for task in TASKS},  # as the module logs them
        test={task.name: f"test_{task.name}" for task in TASKS},
        test_dataloaders=test_loader,
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    place = {"accelerator": trial.device.type, "devices": 1}
    trainer = lightning.Trainer(max_epochs=trial.total_epochs, callbacks=[callback], **place, **quiet)
    trainer.fit(module, train_loader, val_loader, ckpt_path=callback.checkpoint)
