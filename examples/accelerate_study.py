"""A study of a loop with accelerate: from the upper half of a digit tell the digit, its ink and its lower half.

Run: gradsweep run examples/accelerate_study.yaml
"""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from examples.plain_training import Network, data, evaluate, losses  # your network and your data
from examples.training_function import TASKS
from gradsweep import training


@training(TASKS, epochs=20)
def train(trial, lr: float = 1e-3):
    accelerator = Accelerator(cpu=trial.device.type == "cpu")
    network = Network()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, trial.total_epochs)
    loader = DataLoader(data("train"), batch_size=50, shuffle=True)
    model, optimizer, loader, schedule = accelerator.prepare(network, optimizer, loader, schedule)
    balancer = trial.balancer(shared=network.trunk[2])  # the last layer that all tasks share
    for _ in trial.epochs(model=model, optimizer=optimizer, schedule=schedule, loader=loader):
        for batch in loader:
            accelerator.backward(balancer(losses(model, batch)))
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
        trial.report(evaluate(network, "val"), test=lambda: evaluate(network, "test"))
