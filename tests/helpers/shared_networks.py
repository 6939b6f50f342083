"""Parts of small networks whose tasks share layers, and their losses."""

from itertools import pairwise

import torch
from torch import nn

from balancers import find_shared_layer

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(0))


def squares(**outputs):
    return {task: (output - 1).square().mean() for task, output in outputs.items()}


def found(model, losses):
    return list(find_shared_layer(model, losses))


def mlp(*sizes):
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())))


def net(**parts):
    return nn.ModuleDict(parts)
