"""Plain PyTorch: from the upper half of a handwritten digit tell the digit, its ink and its lower half.

Run: gradsweep run examples/training_function.yaml
"""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from gradsweep import Task, training

TASKS = [Task("digit", "accuracy", "maximize"), Task("ink", "RMSE (percent)"), Task("lower_half", "RMSE (greys)")]
ROWS = {"train": slice(0, 1200), "val": slice(1200, 1500), "test": slice(1500, None)}
EPOCHS = 20


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.digit, self.ink, self.lower_half = nn.Linear(64, 10), nn.Linear(64, 1), nn.Linear(64, 32)

    def forward(self, upper):
        features = self.trunk(upper / 16)
        return self.digit(features), self.ink(features)[:, 0], self.lower_half(features)


@cache
def data(split):
    images, digits = load_digits(return_X_y=True)  # 8 x 8 pixels of 17 grey levels, 0 to 16
    return TensorDataset(torch.tensor(images[ROWS[split]]).float(), torch.tensor(digits[ROWS[split]]))


def losses(model, batch):
    images, digits = batch
    logits, ink, lower_half = model(images[:, :32])
    return {
        "digit": cross_entropy(logits, digits),
        "ink": mse_loss(ink, 100 * images.mean(1) / 16),  # percent of the page
        "lower_half": mse_loss(lower_half, images[:, 32:]),
    }


def evaluate(model, split):
    device = next(model.parameters()).device
    images, digits = (part.to(device) for part in data(split).tensors)
    with torch.no_grad():
        squares = losses(model, (images, digits))
        accuracy = (model(images[:, :32])[0].argmax(1) == digits).float().mean()
    return {"digit": accuracy.item()} | {task: squares[task].sqrt().item() for task in ("ink", "lower_half")}


@training(TASKS, epochs=EPOCHS)
def train(trial, lr: float = 1e-3):
    model = Network().to(trial.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    order = torch.Generator().manual_seed(trial.seed)
    loader = DataLoader(data("train"), batch_size=50, shuffle=True, generator=order)
    balancer = trial.balancer(shared=model.trunk[2])  # the last layer that all tasks share
    for _ in trial.epochs(model=model, optimizer=optimizer, loader=loader):
        for batch in loader:
            optimizer.zero_grad()
            balancer.backward(losses(model, [part.to(trial.device) for part in batch]))
            optimizer.step()
        trial.report(evaluate(model, "val"), test=lambda: evaluate(model, "test"))
