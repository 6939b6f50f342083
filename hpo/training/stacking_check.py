"""A check that a problem's trials can be trained stacked, on two trials and two steps. Depends only on torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from balancers import Balancer, Stack
from balancers.weights import LossRefused
from hpo.core.text import message, one_line
from hpo.core.trial import TrialConfig
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem, to_device
from hpo.training.autocast import losses_of
from hpo.training.global_state import as_found
from hpo.training.parts import Parts, of_length
from hpo.training.resumable_loader import read_state, set_state
from hpo.training.stacked_network import NotStackable, StackedNetwork

STEPS = 2  # the second depends on the buffers and optimizer state after the first
CLOSE = 1e-2  # relative, of gradients: TF32 convolutions differ by 1e-3
CLOSE_STEP = 1e-3  # relative, of an optimizer's steps from the same gradients


def check_stackable(problem: Problem, configs: Sequence[TrialConfig], device: torch.device) -> None:
    """Train two trials for two steps, stacked and each alone, and compare losses, gradients, parameters and buffers.

    The networks trained alone use the stacked gradients in their optimizers, so that the steps can be compared
    closely: Adam takes a full step even for a gradient that is only rounding error.

    Args:
        problem: the problem to train.
        configs: of one seed; the first and the last are compared.
        device: where to train.

    Raises:
        NotStackable: the message says what differs, or what cannot be stacked.
    """
    chosen = [configs[0], configs[-1]]
    before, boundary = read_state(device), Boundary()
    try:
        with as_found():
            own = of_length(problem, chosen[0].epochs)
            try:
                _compare(own, chosen, device, boundary)
            except LossRefused:  # such trials are trained alone, to their refusal
                plain = [replace(config, method="equal", settings={}) for config in chosen]
                _compare(own, plain, device, boundary)
    except NotStackable as reason:
        boundary.end_fork()
        raise NotStackable(message(reason)) from None
    except BaseException as error:  # from vmap, or from user code that would fail alone too
        boundary.pass_on(error)
        raise NotStackable(f"its training step cannot be vectorised: {one_line(error)}") from None
    finally:
        set_state(before, device)


def _compare(problem: Problem, configs: Sequence[TrialConfig], device: torch.device, boundary: Boundary) -> None:
    alone = [_Alone(problem, config, device, boundary) for config in configs]
    stacked = _Stacked(problem, configs, device, boundary)
    for number in range(STEPS):
        stacked.measure()
        for k, lane in enumerate(alone):
            lane.measure()
            _same("losses", lane.losses, {task: loss[k] for task, loss in stacked.losses.items()}, CLOSE)
            _same("gradients", lane.gradients(), stacked.gradients_of(k), CLOSE)
            lane.take(stacked.gradients_of(k))
        stacked.step()
        for k, lane in enumerate(alone):
            start = lane.state()
            lane.step()
            _same("optimizer steps", _change(start, lane.state()), _change(start, stacked.state_of(k)), CLOSE_STEP)
        if number == 0:  # schedules that follow epochs move for the second step
            for updates in [lane.parts.updates for lane in (stacked, *alone)]:
                updates.end_epoch()


class _Lane:
    """A training run with its own random generators."""

    def __init__(self, problem: Problem, config: TrialConfig, device: torch.device, boundary: Boundary) -> None:
        self.problem, self.device, self.boundary = problem, device, boundary
        self.parts = Parts.build(problem, config.seed, device)
        boundary.end_fork()
        self.parts.model.train()
        self.tasks = [task.name for task in problem.tasks]
        self._batches = self.parts.order.epoch()
        self._generators = read_state(device)
        self.losses: dict[str, Tensor] = {}

    @contextmanager
    def _own_generators(self) -> Iterator[None]:
        set_state(self._generators, self.device)
        yield
        self._generators = read_state(self.device)

    def _batch(self) -> Any:
        try:
            return to_device(next(self._batches), self.device)
        except StopIteration:
            raise NotStackable(f"loader('train') gave fewer than {STEPS} batches to try it on") from None


class _Alone(_Lane):
    def __init__(self, problem: Problem, config: TrialConfig, device: torch.device, boundary: Boundary) -> None:
        super().__init__(problem, config, device, boundary)
        self._balancer: Balancer = self.parts.balancer(config, self.tasks)

    def measure(self) -> None:
        with self._own_generators():
            self.parts.updates.zero_grad()
            losses = losses_of(self.problem, self.parts.model, self._batch(), self.device)
            self.boundary.end_fork()
            self.losses = {task: loss.detach() for task, loss in losses.items() if isinstance(loss, Tensor)}
            self._balancer.backward(losses)

    def gradients(self) -> dict[str, Tensor]:
        return {name: _grad(value) for name, value in self.parts.model.named_parameters() if value.requires_grad}

    def take(self, gradients: Mapping[str, Tensor]) -> None:
        for name, value in self.parts.model.named_parameters():
            if value.grad is not None:  # parameters without a gradient (other heads of a single-task trial) stay
                value.grad = gradients[name].clone()

    def step(self) -> None:
        self.parts.updates.step()

    def state(self) -> dict[str, Tensor]:
        return _numbers(self.parts.model.state_dict())


class _Stacked(_Lane):
    def __init__(
        self, problem: Problem, configs: Sequence[TrialConfig], device: torch.device, boundary: Boundary
    ) -> None:
        super().__init__(problem, configs[0], device, boundary)
        balancers = [self.parts.balancer(config, self.tasks) for config in configs]
        self._network = StackedNetwork(problem, self.parts, len(configs))
        self._stack = Stack(balancers, self._network.shared)

    def measure(self) -> None:
        with self._own_generators():
            self._network.updates.zero_grad()
            losses = self._network.losses(self._batch())
            self.boundary.end_fork()
            self.losses = {task: loss.detach() for task, loss in losses.items() if isinstance(loss, Tensor)}
            self._stack.backward(losses)

    def gradients_of(self, k: int) -> dict[str, Tensor]:
        return {name: gradient[k] for name, gradient in self._network.gradients().items()}

    def step(self) -> None:
        self._network.updates.step()

    def state_of(self, k: int) -> dict[str, Tensor]:
        return _numbers(self._network.member(k).state_dict())


def _grad(value: Tensor) -> Tensor:
    return torch.zeros_like(value) if value.grad is None else value.grad


def _numbers(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items() if isinstance(value, Tensor)}


def _change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() - before[name].double() for name, value in after.items()}


def _same(what: str, alone: Mapping[str, Tensor], stacked: Mapping[str, Tensor], close: float) -> None:
    """Check that tensors are equal to within rounding, each of them and all as one vector.

    Raises:
        NotStackable: they are not.
    """
    names = [name for name in alone if name in stacked or bool(alone[name].any())]
    if missing := [name for name in names if name not in stacked]:
        raise NotStackable(f"its {what} differ: trained at once, {missing[0]} has none")
    one = torch.cat([alone[name].double().flatten() for name in names])
    other = torch.cat([stacked[name].double().flatten() for name in names])
    there = ~(one.isnan() & other.isnan())  # the loss of a task that is absent from the batch may be NaN
    off, size = float((one - other)[there].norm()), float(one[there].norm())
    if not off <= close * size:  # NaN is not close
        raise NotStackable(f"its {what} differ: trained at once, they are off by {off / max(size, 1e-300):.1%}")
