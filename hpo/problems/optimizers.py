"""Optimizers that more than one built-in problem trains with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def scheduled_adam(model: nn.Module, learning_rate: float, factor: Callable[[int], float]) -> torch.optim.Adam:
    """Adam whose learning rate follows the steps that it has taken; a checkpoint of the optimizer is enough to go on.

    Args:
        model: whose parameters to train.
        learning_rate: of the first step.
        factor: from the number of steps taken to what the next one's learning rate is a multiple of.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def follow(adam: torch.optim.Optimizer, *_: object) -> None:
        taken = int(next(iter(adam.state.values()))["step"])  # a number on the host, whatever the device
        for group in adam.param_groups:
            group["lr"] = learning_rate * factor(taken)

    optimizer.register_step_post_hook(follow)
    return optimizer
