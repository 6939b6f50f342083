"""The optimizers of a network with their schedules and gradient clipping. Depends only on torch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.base import Problem

BOUNDED = 1e-6  # added to a norm before the division, as by `torch.nn.utils.clip_grad_norm_`
_SCHEDULE = ("step", "state_dict", "load_state_dict")


class Updates:
    """A step of a network's parameters: clip the gradients, step the optimizers, step the schedules.

    Args:
        problem: has ``build_optimizer``, ``clip_norm`` and ``schedule_per``.
        model: its network.

    Attributes:
        optimizers: of the network; usually one.
        schedules: those of the optimizers that have one.
        clip: scales the gradients of parameters down to a norm; of stacked networks, each network's.

    Raises:
        ProblemError: ``build_optimizer`` returns what cannot be stepped.
    """

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        built: Any = problem.build_optimizer(model)
        pairs = [_pair(one) for one in (built if isinstance(built, list) else [built])]
        if not pairs:
            raise _unusable("an optimizer", "an empty list")
        self.optimizers = [optimizer for optimizer, _ in pairs]
        self.schedules = [schedule for _, schedule in pairs if schedule is not None]
        self.per, self._norm = problem.schedule_per, problem.clip_norm
        self._has_resumed = False
        self.clip: Callable[[list[Tensor], float], object] = nn.utils.clip_grad_norm_

    def parameters(self) -> list[Tensor]:
        """All parameters that the optimizers train."""
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return [value for group in groups for value in group["params"]]

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Clip, step the optimizers, and the schedules that follow steps."""
        self.step_optimizers()
        if self.per == "step":
            self._step_schedules()

    def step_optimizers(self) -> None:
        """Clip and step the optimizers; the schedules stay."""
        if self._norm is not None:
            self.clip(self.parameters(), self._norm)
        for optimizer in self.optimizers:
            optimizer.step()

    def end_epoch(self) -> None:
        """Step the schedules that follow epochs."""
        if self.per == "epoch":
            self._step_schedules()

    def state(self) -> dict[str, Any]:
        """``optimizer`` for a checkpoint, and ``schedule`` where there is one."""
        return self.state_with([optimizer.state_dict() for optimizer in self.optimizers])

    def state_with(self, optimizers: list[dict[str, Any]]) -> dict[str, Any]:
        """`state` with other states of the optimizers: those of one of several stacked networks."""
        schedules = [schedule.state_dict() for schedule in self.schedules]
        state: dict[str, Any] = {"optimizer": optimizers[0] if len(optimizers) == 1 else optimizers}
        return state | {"schedule": schedules} if schedules else state

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`."""
        states = [state["optimizer"]] if len(self.optimizers) == 1 else state["optimizer"]
        for optimizer, own in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(own)
        self.load_schedules(state)

    def load_schedules(self, state: Mapping[str, Any]) -> None:
        """Continue from the schedules of `state`."""
        for schedule, own in zip(self.schedules, state.get("schedule", []), strict=True):
            schedule.load_state_dict(own)
        self._has_resumed = True

    def _step_schedules(self) -> None:
        with warnings.catch_warnings() if self._has_resumed else nullcontext():
            if self._has_resumed:  # torch believes that the optimizer has made no step
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for schedule in self.schedules:
                schedule.step()
        self._has_resumed = False  # later warnings are the user's


def clip_each(parameters: Iterable[Tensor], most: float) -> None:
    """Clip the gradients of K stacked networks, each to its own norm, as `torch.nn.utils.clip_grad_norm_` does alone.

    Args:
        parameters: of shape (K, \\*shape) where they have a gradient.
        most: the largest norm.
    """
    gradients = [value.grad for value in parameters if value.grad is not None]
    parts = [torch.linalg.vector_norm(gradient.reshape(len(gradient), -1), dim=1) for gradient in gradients]
    if not parts:
        return
    norms = torch.linalg.vector_norm(torch.stack([part.to(parts[0]) for part in parts]), dim=0)  # of each network
    factors = (most / (norms + BOUNDED)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.to(gradient).view(-1, *[1] * (gradient.dim() - 1)))


def _pair(built: Any) -> tuple[torch.optim.Optimizer, Any]:
    """An optimizer and its schedule, if it has one."""
    optimizer, schedule = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(optimizer, torch.optim.Optimizer):
        allowed = "a torch.optim.Optimizer, (optimizer, schedule), or a list of these"
        raise _unusable(allowed, type(optimizer).__name__)
    if isinstance(optimizer, torch.optim.LBFGS) or _required(optimizer):
        raise _unusable(
            "an optimizer whose step() takes no closure, such as Adam",
            f"{type(optimizer).__name__}, which computes the losses several times in a step, while a balancer moves "
            "its weights each time",
        )
    if schedule is not None:
        _check_schedule(schedule)
    return optimizer, schedule


def _check_schedule(schedule: Any) -> None:
    kind = type(schedule).__name__
    if isinstance(schedule, torch.optim.Optimizer):
        raise _unusable(
            "(optimizer, schedule), or a list of several optimizers", f"a tuple with {kind} in second place"
        )
    if not all(callable(getattr(schedule, name, None)) for name in _SCHEDULE):
        raise _unusable(f"a schedule with {', '.join(_SCHEDULE)}", kind)
    if isinstance(schedule, ReduceLROnPlateau) or (needed := _required(schedule)):
        found = "a metric" if isinstance(schedule, ReduceLROnPlateau) else ", ".join(needed)
        raise _unusable(
            "a schedule that depends on the number of steps or epochs alone, so that all arms have the same",
            f"{kind}, whose step() needs {found}",
        )


def _required(stepped: Any) -> list[str]:
    """Names of the arguments that ``step()`` of an object has to be given."""
    try:  # of the class, since a schedule wraps the optimizer's own
        _, *parameters = inspect.signature(type(stepped).step).parameters.values()
    except (TypeError, ValueError):  # of what is not written in Python
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in optional]


def _unusable(allowed: str, found: str) -> ProblemError:
    return ProblemError(complaint("build_optimizer", allowed, found))
