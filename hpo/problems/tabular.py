"""The network of the built-in tabular problems: a shared trunk and one affine head for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class SharedTrunk(nn.Module):
    """A fully connected ReLU trunk read by one affine head for each task (hard parameter sharing).

    Args:
        inputs: columns of the input.
        hidden: width of each layer of the trunk.
        outputs: width of each task's head, by task name.
        seed: fixes the initial parameters (torch's standard initialisation); the global random state stays as it is.

    >>> network = SharedTrunk(inputs=8, hidden=[4, 4], outputs={"age": 1}, seed=0)
    >>> network(torch.zeros(3, 8))["age"].shape
    torch.Size([3, 1])
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: Mapping[str, int], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
            widths = [inputs, *hidden]
            layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
            self.trunk = nn.Sequential(*layers)
            self.heads = nn.ModuleDict({task: nn.Linear(widths[-1], width) for task, width in outputs.items()})

    @property
    def shared_layer(self) -> nn.Module:
        """The trunk's last affine layer: the last weights that all tasks share."""
        return self.trunk[-2]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Each task's raw output: ``x`` (B, inputs) to (B, width of the head), by task name."""
        features = self.trunk(x)
        return {task: head(features) for task, head in self.heads.items()}
