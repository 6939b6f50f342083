"""The interface between the training loop and the networks that it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from balancers import Balancer, StepRecord
from hpo.core.trial import TrialConfig
from hpo.problems.base import Problem
from hpo.training.parts import Parts


class Engine(Protocol):
    """The networks of K trials with their optimizer and balancers; K may be 1.

    Members are numbered from 0, in the order of the configs; `keep` renumbers the remaining ones.

    Attributes:
        mixes_tasks: whether the backward pass of a single-task trial also goes through the tasks that it leaves out,
            with weight 0. A NaN there reaches the trained one, since 0 times NaN is NaN.
    """

    mixes_tasks: ClassVar[bool]

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Clear the gradients and return the losses of a batch with their graph."""

    def first_losses(self, losses: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """Return the losses of the first step as numbers, for each member. Waits for the device."""

    def step(self, losses: Mapping[str, Tensor]) -> StepRecord:
        """Make a backward pass and an optimizer step; the record is of shape (T,), or (K, T) of stacked networks."""

    def end_epoch(self) -> None:
        """Notify the balancers and the schedules of the end of an epoch."""

    def balancers(self) -> list[Balancer]:
        """Return the balancer of each member, as if it had been trained by itself. Waits for the device."""

    def network(self, k: int) -> nn.Module:
        """Return the network of a member, valid until the next call or step."""

    def state(self, k: int) -> dict[str, Any]:
        """Return a member's ``model``, ``optimizer`` and ``schedule``, if any, in the form of a single training."""

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from a checkpoint for each member."""

    def keep(self, numbers: Sequence[int]) -> None:
        """Continue with only some of the members; at least one."""


EngineFactory = Callable[[Problem, Parts, Sequence[TrialConfig], torch.device], Engine]
