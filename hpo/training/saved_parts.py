"""The objects that a training function hands over for its checkpoints. Depends only on torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from balancers.weights import fail
from hpo.training.resumable_loader import own_generators
from hpo.training.sharded_parts import divided, is_sharded, whole


class SavedParts:
    """Objects whose states are in a checkpoint, by name.

    Args:
        parts: each with ``state_dict`` and ``load_state_dict``, or a `torch.Generator`, or a DataLoader, of which the
            generators that it holds are saved. ``None`` is left out.

    Raises:
        ValueError: an object of another kind.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self._parts = {name: part for name, part in parts.items() if part is not None}
        for name, part in self._parts.items():
            if not isinstance(part, torch.Generator | DataLoader) and not _has_state(part):
                rule = "an object with state_dict and load_state_dict, a torch.Generator or a DataLoader"
                fail(f"trial.epochs({name}=...)", rule, type(part).__name__)

    def state(self) -> dict[str, Any]:
        """Return the states for a checkpoint."""
        return {name: _state(part) for name, part in self._parts.items()}

    def of_rank(self) -> dict[str, Any]:
        """Return the states of the parts that differ between the processes of a trial: generators."""
        parts = {name: part for name, part in self._parts.items() if isinstance(part, torch.Generator | DataLoader)}
        return {name: _state(part) for name, part in parts.items()}

    def sums(self) -> dict[str, float]:
        """Return the sum of the parameters of each network that every process holds whole."""
        networks = {name: part for name, part in self._parts.items() if isinstance(part, nn.Module)}
        return {name: total for name, network in networks.items() if (total := _sum(network)) is not None}

    def load(self, states: Mapping[str, Any]) -> None:
        """Continue from `state`.

        Raises:
            ValueError: it is of other parts.
        """
        if states.keys() != self._parts.keys():
            fail("trial.epochs()", f"the parts of the checkpoint, {', '.join(states)}", ", ".join(self._parts))
        for name, part in self._parts.items():
            _load(part, states[name])


def _sum(network: nn.Module) -> float | None:
    """Return the sum of all parameters; ``None`` if they are divided among processes, by FSDP in either version."""
    parameters = list(network.parameters())
    if any(type(one) is not nn.Parameter or is_sharded(one) for one in parameters):
        return None
    return sum(one.detach().double().sum().item() for one in parameters)


def _has_state(part: object) -> bool:
    return all(callable(getattr(part, name, None)) for name in ("state_dict", "load_state_dict"))


def _state(part: Any) -> Any:
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, DataLoader):
        return _loader_state(part)
    return whole(part.state_dict())


def _load(part: Any, state: Any) -> None:
    if isinstance(part, torch.Generator):
        part.set_state(state)
    elif isinstance(part, DataLoader):
        _load_loader(part, state)
    else:
        part.load_state_dict(divided(state, part))


def _counts(loader: Any) -> bool:
    """Return whether a DataLoader counts its epochs and seeds its sampler with their number, as accelerate's do."""
    return hasattr(loader, "iteration") and callable(getattr(loader, "set_epoch", None))


def _loader_state(loader: Any) -> Any:
    states = [generator.get_state() for generator in own_generators(loader)]
    return {"generators": states, "iteration": loader.iteration} if _counts(loader) else states


def _load_loader(loader: Any, state: Any) -> None:
    if _counts(loader):
        loader.set_epoch(state["iteration"])
        state = state["generators"]
    for generator, content in zip(own_generators(loader), state, strict=True):
        generator.set_state(content)
