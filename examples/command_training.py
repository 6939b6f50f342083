"""A trainer that takes loss weights as numbers, for examples/command_training.yaml.

Run: python -m examples.command_training --w-digit 1 --w-ink 0.01 --w-lower-half 0.1 --seed 0 --metrics metrics.json
"""

import argparse
import json
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from examples import plain_training as plain

parser = argparse.ArgumentParser()
for task in plain.WEIGHTS:
    parser.add_argument(f"--w-{task.replace('_', '-')}", dest=task, type=float, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--metrics", type=Path, required=True)

if __name__ == "__main__":
    told = parser.parse_args()
    torch.manual_seed(told.seed)
    model = plain.Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(plain.EPOCHS):
        for batch in DataLoader(plain.data("train"), batch_size=50, shuffle=True):
            optimizer.zero_grad()
            sum(getattr(told, task) * loss for task, loss in plain.losses(model, batch).items()).backward()
            optimizer.step()
    metrics = {"validation": plain.evaluate(model, "val"), "test": plain.evaluate(model, "test")}
    told.metrics.write_text(json.dumps(metrics))
