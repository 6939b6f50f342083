"""States of what FSDP2 divides among the ranks: whole in a checkpoint. Depends only on torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def is_sharded(value: object) -> bool:
    """Return whether a value is a tensor of which each rank holds a part, a DTensor."""
    return isinstance(value, Tensor) and hasattr(value, "full_tensor")


def whole(state: Any) -> Any:
    """Return a state with whole tensors in place of sharded ones; every rank calls it."""
    if not _has_sharded(state):
        return state
    return _mapped(state, lambda value: value.full_tensor().cpu() if is_sharded(value) else value)


def divided(state: Any, part: object) -> Any:
    """Return a state from `whole` with the tensors divided as those of a network or an optimizer are.

    Args:
        state: of the part.
        part: to be restored from it.
    """
    if isinstance(part, nn.Module) and _has_sharded(found := part.state_dict()):
        return {name: _like(value, found.get(name)) for name, value in state.items()}
    if isinstance(part, Optimizer) and _has_sharded(part.param_groups):
        parameters = [parameter for group in part.param_groups for parameter in group["params"]]
        of_each = {
            number: _mapped(values, partial(_like, like=parameters[number]))
            for number, values in state["state"].items()
        }
        return {**state, "state": of_each}
    return state


def _has_sharded(state: Any) -> bool:
    if isinstance(state, Mapping):
        return any(map(_has_sharded, state.values()))
    return any(map(_has_sharded, state)) if isinstance(state, list | tuple) else is_sharded(state)


def _like(value: Any, like: Any) -> Any:
    """Divide a tensor as another of its shape is."""
    if not (is_sharded(like) and isinstance(value, Tensor) and value.shape == like.shape):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _mapped(state: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(state, Mapping):
        return {name: _mapped(value, change) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_mapped(value, change) for value in state)
    return change(state)
