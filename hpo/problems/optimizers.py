"""Optimizers of several built-in problems."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def scheduled_adam(model: nn.Module, learning_rate: float, factor: Callable[[int], float]) -> torch.optim.Adam:
    """Create an Adam whose learning rate depends on its own step count, so that its checkpoint is enough to resume.

    Args:
        model: whose parameters to train.
        learning_rate: of the first step.
        factor: returns, for the number of steps taken, the factor of the next step's learning rate.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)

    def follow(adam: torch.optim.Optimizer, *_: object) -> None:
        taken = int(next(iter(adam.state.values()))["step"])  # a number on the host, whatever the device
        for group in adam.param_groups:
            group["lr"] = learning_rate * factor(taken)

    optimizer.register_step_post_hook(follow)
    return optimizer
