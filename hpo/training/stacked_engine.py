"""The engine of K networks with stacked parameters: one forward and one backward pass for all. Needs torch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from balancers import Balancer, Stack, StepRecord
from hpo.core.trial import TrialConfig
from hpo.problems.base import Problem, to_device
from hpo.training.parts import Parts
from hpo.training.stacked_network import StackedNetwork


class StackedEngine:
    """An `Engine` of K trials.

    Args:
        problem: computes the losses.
        parts: of one network, which becomes the template of all.
        configs: of the trials.
        device: where to train.

    Raises:
        NotStackable: the optimizer cannot be given other parameters.
    """

    mixes_tasks: ClassVar[bool] = True

    def __init__(self, problem: Problem, parts: Parts, configs: Sequence[TrialConfig], device: torch.device) -> None:
        self._device, self._count = device, len(configs)
        tasks = [task.name for task in problem.tasks]
        balancers = [parts.balancer(config, tasks) for config in configs]
        self._network = StackedNetwork(problem, parts, len(configs))
        self._stack = Stack(balancers, self._network.shared)

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Clear the gradients and return the losses of a batch with their graph, shape (K,) per task."""
        self._network.updates.zero_grad()
        return self._network.losses(to_device(batch, self._device))

    def first_losses(self, losses: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """Return the losses of the first step as numbers, for each member, without absent tasks."""
        columns = {task: loss.detach().tolist() for task, loss in losses.items()}
        return [{task: column[k] for task, column in columns.items()} for k in range(self._count)]

    def step(self, losses: Mapping[str, Tensor]) -> StepRecord:
        """Make a backward pass and an optimizer step for all; the record is of shape (K, T)."""
        self._stack.backward(losses)
        self._network.updates.step()
        assert self._stack.last is not None
        return self._stack.last

    def end_epoch(self) -> None:
        """Notify the schedules of the end of an epoch; no stackable balancer depends on epochs."""
        self._network.updates.end_epoch()

    def balancers(self) -> list[Balancer]:
        """Return the balancer of each member, as if it had been trained by itself. Waits for the device."""
        return self._stack.balancers()

    def network(self, k: int) -> nn.Module:
        """Return the network of a member: the template with its parameters."""
        return self._network.member(k)

    def state(self, k: int) -> dict[str, Any]:
        """Return a member's ``model``, ``optimizer`` and ``schedule``, if any, in the form of a single training."""
        return self._network.state(k)

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from a checkpoint for each member."""
        self._network.load(states)
        balancers = self._stack.balancers()
        for balancer, state in zip(balancers, states, strict=True):
            balancer.load_state_dict(state["balancer"])
        self._stack = Stack(balancers, self._network.shared)

    def keep(self, numbers: Sequence[int]) -> None:
        """Continue with only some of the members."""
        self._count = len(numbers)
        self._network.keep(numbers)
        self._stack = self._stack.keep(numbers, self._network.shared)
