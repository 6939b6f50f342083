"""The network of plain_training.py as a problem, for docs/bring-your-own.md."""

import torch
from torch.utils.data import DataLoader

from examples import plain_training as plain
from hpo.problems import Problem, Task


class HalfDigits(Problem):
    """Three tasks whose losses differ 400-fold; the code is the training script's."""

    tasks = (
        Task("digit", "accuracy", "maximize"),
        Task("ink", "RMSE (percent)"),
        Task("lower_half", "RMSE (grey levels)"),
    )
    epochs = plain.EPOCHS

    def build_model(self, seed):
        return plain.Network()  # torch is seeded for you

    def shared_layer(self, model):
        return model.trunk[2]  # the last layer that all tasks share

    def loader(self, split, seed):
        order = torch.Generator().manual_seed(seed)
        return DataLoader(plain.data(split), batch_size=50, shuffle=split == "train", generator=order)

    def losses(self, model, batch):
        return plain.losses(model, batch)

    def evaluate(self, model, split):
        return plain.evaluate(model, split)
