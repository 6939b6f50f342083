"""The engine of one network: an ordinary training step, without `torch.func`. Depends only on torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from balancers import Balancer, StepRecord
from hpo.core.trial import TrialConfig
from hpo.problems.base import Problem, to_device
from hpo.training.autocast import losses_of
from hpo.training.parts import Parts


class SingleEngine:
    """An `Engine` of one trial.

    Args:
        problem: computes the losses.
        parts: the network, its optimizer and its shared layer.
        configs: of the one trial.
        device: where to train.
    """

    mixes_tasks: ClassVar[bool] = False

    def __init__(self, problem: Problem, parts: Parts, configs: Sequence[TrialConfig], device: torch.device) -> None:
        (config,) = configs
        self._problem, self._device = problem, device
        self._model, self._updates = parts.model, parts.updates
        self._tasks = [task.name for task in problem.tasks]
        self._balancer = parts.balancer(config, self._tasks)

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Clear the gradients and return the losses of a batch with their graph."""
        self._updates.zero_grad()
        return losses_of(self._problem, self._model, to_device(batch, self._device), self._device)

    def first_losses(self, losses: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """Return the losses of the first step as numbers; the balancer reports invalid ones, omitted here."""
        found = {task: losses.get(task) for task in self._tasks}
        scalars = {task: loss for task, loss in found.items() if isinstance(loss, Tensor) and loss.numel() == 1}
        return [{task: float(loss.detach()) for task, loss in scalars.items()}]

    def step(self, losses: Mapping[str, Tensor]) -> StepRecord:
        """Make a backward pass and an optimizer step."""
        self._balancer.backward(losses)
        self._updates.step()
        assert self._balancer.last is not None
        return self._balancer.last

    def end_epoch(self) -> None:
        """Notify the balancer and the schedules of the end of an epoch."""
        self._balancer.end_epoch()
        self._updates.end_epoch()

    def balancers(self) -> list[Balancer]:
        """Return the balancer, in a list."""
        return [self._balancer]

    def network(self, k: int) -> nn.Module:
        """The network."""
        del k
        return self._model

    def state(self, k: int) -> dict[str, Any]:
        """Return ``model``, ``optimizer`` and ``schedule``, if any, for the checkpoint."""
        del k
        return {"model": self._model.state_dict(), **self._updates.state()}

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from a checkpoint."""
        (state,) = states
        self._model.load_state_dict(state["model"])
        self._updates.load(state)
        self._balancer.load_state_dict(state["balancer"])

    def keep(self, numbers: Sequence[int]) -> None:
        """Do nothing: there is only one member."""
        assert list(numbers) == [0]
