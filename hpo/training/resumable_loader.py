"""Random generators and batch order of a training run: seed, save and restore them. Depends only on torch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler

_OTHERS = (random.Random, np.random.Generator, np.random.RandomState)  # which a dataset may own
_NO_HOLDERS = (type, ModuleType, torch.Tensor)
_LONGEST = 20  # transforms in a list; of a long list only the first ones are searched


def seed_all(seed: int) -> None:
    """Seed every global generator that a problem may draw from; a worker process trains many trials."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def read_state(device: torch.device) -> dict[str, Any]:
    """Return the state of the global generators, in types that `torch.load` reads with ``weights_only=True``."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore a state from `read_state`."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


class DataOrder:
    """Iterates over a loader epoch by epoch and can resume at the position of a checkpoint.

    For a `torch.utils.data.DataLoader` whose next epoch depends only on torch's generators, their state is saved. Any
    other object with ``state_dict`` and ``load_state_dict`` saves its own position. All remaining loaders, except
    lists, are iterated again from the first epoch, without training.

    Args:
        loader: iterated once per epoch.
        device: where the run trains.
    """

    def __init__(self, loader: Iterable[Any], device: torch.device) -> None:
        self._loader, self._device = loader, device
        self._begin: dict[str, Any] = {}
        self._count = 0

    def epoch(self) -> Iterator[Any]:
        """Iterate over the batches of the next epoch."""
        self._begin = {"global": read_state(self._device), "loader": self._loader_state()}
        self._count = 0
        return self._batches(self._start())

    def state(self) -> dict[str, Any]:
        """Return the position in the epoch, and the state of the global generators at its start and now."""
        return {"begin": self._begin, "batches": self._count, "now": read_state(self._device)}

    def resume(self, state: dict[str, Any], epochs: int) -> Iterator[Any]:
        """Iterate over the rest of the epoch in which ``state`` was read.

        Args:
            state: returned by `state`.
            epochs: number of epochs that ended before it.
        """
        self._begin, self._count = state["begin"], 0
        saved = self._begin["loader"]
        if saved is None:
            self._replay(epochs)
        elif "loader" in saved:
            self._loader.load_state_dict(saved["loader"])  # type: ignore[attr-defined]
        else:
            for generator, content in zip(own_generators(self._loader), saved["generators"], strict=True):
                generator.set_state(content)
        set_state(self._begin["global"], self._device)
        batches = self._start()
        for _ in range(state["batches"]):
            next(batches)
        self._count = state["batches"]
        set_state(state["now"], self._device)
        return self._batches(batches)

    def _start(self) -> Iterator[Any]:
        batches = iter(self._loader)
        return _apart(batches, int(torch.randint(2**62, ()))) if _draws_as_it_goes(self._loader) else batches

    def _batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._count += 1
            yield batch

    def _loader_state(self) -> dict[str, Any] | None:
        if isinstance(self._loader, list | tuple) or _hangs_on_torch_alone(self._loader):
            return {"generators": [generator.get_state() for generator in own_generators(self._loader)]}
        if isinstance(self._loader, DataLoader):
            return None  # torchdata's has a `state_dict`, but without the generators that it shuffles with
        if hasattr(self._loader, "state_dict") and hasattr(self._loader, "load_state_dict"):
            return {"loader": self._loader.state_dict()}
        return None

    def _replay(self, epochs: int) -> None:
        for _ in range(epochs):
            for _ in self._loader:
                pass


def _draws_as_it_goes(loader: Any) -> bool:
    """Return whether the next batch may depend on random numbers drawn by the loader since the start of the epoch.

    With a shuffle buffer it does. A DataLoader over an indexed dataset draws the order at once, and its workers have
    their own generators.
    """
    if isinstance(loader, DataLoader):
        return isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0
    return not isinstance(loader, list | tuple) and not hasattr(loader, "state_dict")


def _apart(batches: Iterator[Any], seed: int) -> Iterator[Any]:
    """Give a loader its own state of the global generators, which other draws (for example dropout) do not change.

    So the batches before a checkpoint can be iterated again without training, and those after it are the same.
    """
    host = torch.device("cpu")
    others = read_state(host)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # `torch.manual_seed` would seed the GPU too
    own = read_state(host)
    set_state(others, host)
    while True:
        others = read_state(host)
        set_state(own, host)
        try:
            batch = next(batches)
        except StopIteration:
            return
        finally:
            own = read_state(host)
            set_state(others, host)
        yield batch


def _hangs_on_torch_alone(loader: Any) -> bool:
    """Return whether a DataLoader has only torch's samplers and generators, and workers that end with the epoch."""
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return False
    if loader.persistent_workers:
        return False
    samplers = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    known = all(part is None or type(part).__module__ == Sampler.__module__ for part in samplers)
    return known and not _held(loader, _OTHERS)


def own_generators(loader: Any) -> list[torch.Generator]:
    """Return the generators that a DataLoader, its samplers and its data hold; none of another loader."""
    return _held(loader, (torch.Generator,)) if isinstance(loader, DataLoader) else []


def _seeds_each_epoch(part: Any) -> bool:
    """Return whether a sampler, as accelerate's ``SeedableRandomSampler``, seeds its generator with the epoch."""
    return isinstance(getattr(part, "initial_seed", None), int) and hasattr(part, "set_epoch")


def _held(part: Any, kinds: tuple[type, ...], depth: int = 6, seen: set[int] | None = None) -> list[Any]:
    """Return the generators of an object, its samplers, data and transforms; each once."""
    seen = set() if seen is None else seen
    if id(part) in seen or isinstance(part, _NO_HOLDERS) or _seeds_each_epoch(part):
        return []
    seen.add(id(part))
    if isinstance(part, kinds):
        return [part]
    parts = part[:_LONGEST] if isinstance(part, list | tuple) else list(getattr(part, "__dict__", {}).values())
    return [found for one in parts if depth for found in _held(one, kinds, depth - 1, seen)]
