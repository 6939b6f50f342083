"""The precision in which the user's code computes losses and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from hpo.problems.base import Problem


def autocast(problem: Problem, device: torch.device) -> AbstractContextManager[object]:
    """The context in which ``losses`` and ``evaluate`` of a problem are called."""
    return torch.autocast(device.type, problem.autocast) if problem.autocast else nullcontext()


def losses_of(problem: Problem, model: nn.Module, batch: Any, device: torch.device) -> Mapping[str, Tensor]:
    """The losses of a batch, which is on the device, as the user's code returns them."""
    with autocast(problem, device):
        return problem.losses(model, batch)
