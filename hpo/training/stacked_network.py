"""K copies of a network trained as one by `torch.func`: stacked parameters, one optimizer. Depends only on torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from balancers.shared_layer import parameters_of
from hpo.problems.base import Problem
from hpo.training.parts import Parts
from hpo.training.torch_private import has_step_hooks
from hpo.training.updates import clip_each

_optim = torch.optim
FUSED = (_optim.Adam, _optim.AdamW, _optim.SGD)  # with a fused kernel on CPUs that is not the default
# Elementwise optimizers, with which K networks in one tensor stay independent. A class of the user's may not be one.
ELEMENTWISE = (*FUSED, _optim.Adadelta, _optim.Adamax, _optim.NAdam, _optim.RAdam, _optim.RMSprop, _optim.Rprop)


class NotStackable(Exception):  # noqa: N818 - an answer, not an error
    """The network, its losses or its optimizer cannot be trained stacked; the message says why."""


class _Losses(nn.Module):
    """The problem's losses as a module, so that `functional_call` can replace its parameters."""

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        super().__init__()
        self._problem, self.model = problem, model

    def forward(self, batch: Any) -> dict[str, Tensor]:
        losses = self._problem.losses(self.model, batch)
        tasks = [task.name for task in self._problem.tasks]
        given = {task: loss for task, loss in losses.items() if loss is not None}  # the others are absent
        if not given.keys() <= set(tasks) or any(not _is_scalar(loss) for loss in given.values()):
            raise NotStackable("its losses are not one scalar for each task")
        return {task: loss.reshape(()) for task, loss in given.items()}


class StackedNetwork:
    """K copies of a problem's network, trained at once.

    A trainable parameter of shape (\\*shape) becomes one of shape (K, \\*shape), and so do the buffers; the problem's
    own optimizer trains them in place of the originals. Random numbers of a step (dropout) are the same for all K, as
    in K runs with one seed.

    Args:
        problem: provides the losses.
        parts: of one network, which becomes the template that `member` fills.
        count: K.

    Raises:
        NotStackable: the optimizer cannot be handed other parameters; autocast is on.
    """

    def __init__(self, problem: Problem, parts: Parts, count: int) -> None:
        if problem.autocast is not None:
            raise NotStackable("it has autocast on, which vmap leaves out in some layers")
        self._parts, self._losses = parts, _Losses(problem, parts.model)
        self.count = count
        trained = {name: value for name, value in self._losses.named_parameters() if value.requires_grad}
        self._parameters = {name: _copies(value, count).requires_grad_() for name, value in trained.items()}
        self._buffers = {name: _copies(value, count) for name, value in self._losses.named_buffers()}
        self.updates = parts.updates
        if len(self.updates.optimizers) > 1:
            raise NotStackable("it has several optimizers")
        (self.optimizer,) = self.updates.optimizers
        self.updates.clip = clip_each
        by_original = {id(value): self._parameters[name] for name, value in trained.items()}
        self._shared = [by_original[id(value)] for value in parameters_of(parts.shared) if id(value) in by_original]
        self._hand_over(by_original)
        self._run = vmap(self._losses_of_one, in_dims=(0, 0, None), randomness="same")

    @property
    def shared(self) -> list[Tensor]:
        """W of all K: each parameter of the shared layer, shape (K, \\*shape)."""
        return self._shared

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Compute the losses of all K networks on one batch: for each task shape (K,), with graph."""
        found: dict[str, Tensor] = self._run(self._parameters, self._buffers, batch)
        return found

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of the last backward pass, by the parameter's name in the model."""
        return {_plain(name): value.grad for name, value in self._parameters.items() if value.grad is not None}

    def member(self, k: int) -> nn.Module:
        """Return the k-th network: the template with views of the stacked parameters and buffers."""
        for name, value in [*self._losses.named_parameters(), *self._losses.named_buffers()]:
            stacked = self._parameters.get(name, self._buffers.get(name))
            if stacked is not None:
                value.data = stacked.detach()[k]
        return self._parts.model

    def state(self, k: int) -> dict[str, Any]:
        """Return the state dicts of the k-th network and its optimizer, as of a network trained alone."""
        model = {name: _own(value) for name, value in self.member(k).state_dict().items()}
        whole = self.optimizer.state_dict()
        state = {
            place: {name: _own(self._one(place, value, k)) for name, value in parts.items()}
            for place, parts in whole["state"].items()
        }
        groups = [group | self._flags for group in whole["param_groups"]]
        return {"model": model, **self.updates.state_with([{"state": state, "param_groups": groups}])}

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from K states."""
        for k, state in enumerate(states):
            self.member(k).load_state_dict(state["model"])  # writes through the views
        first, rest = states[0]["optimizer"], [state["optimizer"]["state"] for state in states]
        merged = {
            place: {name: self._all(place, name, [state[place][name] for state in rest]) for name in parts}
            for place, parts in first["state"].items()
        }
        groups = [group | self._fast for group in first["param_groups"]]
        self.optimizer.load_state_dict({"state": merged, "param_groups": groups})
        self.updates.load_schedules(states[0])

    def keep(self, numbers: Sequence[int]) -> None:
        """Keep only some of the networks."""
        old = list(self._parameters.values())
        self._parameters = {name: _some(value, numbers).requires_grad_() for name, value in self._parameters.items()}
        self._buffers = {name: _some(value, numbers) for name, value in self._buffers.items()}
        new = {id(before): after for before, after in zip(old, self._parameters.values(), strict=True)}
        for before in old:
            state = self.optimizer.state.pop(before, {})
            kept = {n: _some(v, numbers) if _is_like(v, before) else v for n, v in state.items()}
            if kept:
                self.optimizer.state[new[id(before)]] = kept
        for group in self.optimizer.param_groups:
            group["params"] = [new.get(id(value), value) for value in group["params"]]
        self._shared = [new[id(value)] for value in self._shared]
        self.count = len(numbers)

    def _losses_of_one(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Any
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = functional_call(self._losses, (dict(parameters), dict(buffers)), (batch,))
        return found

    def _hand_over(self, by_original: Mapping[int, Tensor]) -> None:
        """Replace the optimizer's parameters by the stacked ones."""
        kind = type(self.optimizer)
        if kind not in ELEMENTWISE:
            raise NotStackable(f"its optimizer {kind.__name__} is none that is known to act on each number by itself")
        for schedule in self.updates.schedules:
            if type(schedule).__module__ != _optim.lr_scheduler.__name__:
                raise NotStackable(f"its schedule {type(schedule).__name__} is none of torch's")
        if has_step_hooks(self.optimizer):
            raise NotStackable("its optimizer has hooks before a step, which would see all networks as one")
        if self.optimizer.state:
            raise NotStackable("its optimizer has a state before the first step")
        for group in self.optimizer.param_groups:
            if any(value.requires_grad and id(value) not in by_original for value in group["params"]):
                raise NotStackable("its optimizer trains what is no parameter of the model")
            group["params"] = [by_original.get(id(value), value) for value in group["params"]]
        self._flags, self._fast = _fused(self.optimizer)
        for group in self.optimizer.param_groups:
            group.update(self._fast)

    def _one(self, place: int, value: Any, k: int) -> Any:
        return value[k] if _is_like(value, self._trained(place)) else value

    def _all(self, place: int, name: str, values: Sequence[Any]) -> Any:
        like = self._trained(place)
        whole = name != "step" and isinstance(values[0], Tensor) and values[0].shape == like.shape[1:]
        return torch.stack(list(values)) if whole else values[0]

    def _trained(self, place: int) -> Tensor:
        """Return the parameter of a number in an optimizer's state."""
        every: list[Tensor] = [value for group in self.optimizer.param_groups for value in group["params"]]
        return every[place]


def _fused(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return an optimizer's options before and after switching to the fused CPU kernel, which is not torch's default
    there. Both are empty if there is no such kernel or the user has chosen one."""
    groups = optimizer.param_groups
    values = [value for group in groups for value in group["params"]]
    chosen = any(group.get(name) for group in groups for name in ("fused", "foreach", "capturable", "differentiable"))
    if type(optimizer) not in FUSED or chosen or any(v.device.type != "cpu" or v.is_complex() for v in values):
        return {}, {}
    return {name: groups[0][name] for name in ("fused", "foreach")}, {"fused": True, "foreach": False}


def _is_scalar(loss: Any) -> bool:
    return isinstance(loss, Tensor) and loss.numel() == 1


def _copies(value: Tensor, count: int) -> Tensor:
    return value.detach().expand(count, *value.shape).clone()


def _some(value: Tensor, numbers: Sequence[int]) -> Tensor:
    return value.detach()[list(numbers)].clone()


def _is_like(value: Any, stacked: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == stacked.shape


def _own(value: Any) -> Any:
    """Copy a tensor, so that `torch.save` does not write the whole stack that it is a view of."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _plain(name: str) -> str:
    return name.removeprefix("model.")
