"""The processes that train a trial together: a process group of torch.distributed. Depends only on torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore as _tcp_store  # type: ignore[attr-defined]  # noqa: N813 - not in its types

from balancers.weights import fail
from hpo.core.place import Place
from hpo.core.text import one_line

Found = TypeVar("Found")
JOIN_LIMIT = timedelta(minutes=5)  # for all processes to come
WAIT_LIMIT = timedelta(days=30)  # for each other at the end of an epoch: one may evaluate alone for hours


class FirstRankFailed(Exception):  # noqa: N818 - an echo of an error on rank 0, which is the one to tell
    """Rank 0 has raised an exception, so that the others cannot go on."""


class Ranks:
    """The processes that train a trial; one alone unless a process group is handed over.

    Every process makes the same calls in the same order; where one of them differs, all raise an error.

    Args:
        group: of the calls below, apart from the default group, which is the function's; ``None`` for one process.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.size = 1 if group is None else dist.get_world_size(group)

    @property
    def is_first(self) -> bool:
        """True on rank 0, which reports and writes checkpoints."""
        return self.rank == 0

    def all(self, what: str, value: Found) -> list[Found]:
        """Return the value of each rank, in order.

        Args:
            what: the call that every rank has to make; begins the message if one makes another.
            value: of this rank.

        Raises:
            ValueError: a rank makes another call.
        """
        if self._group is None:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, (what, value), self._group)
        first = found[0][0]
        for rank, (called, _) in enumerate(found):
            if called != first:
                fail("processes of a trial", f"{first} on every rank", f"{called} on rank {rank}")
        return [one for _, one in found]

    def first(self, what: str, make: Callable[[], Found], others: Callable[[], object] | None = None) -> Found:
        """Return what rank 0 makes, on every rank.

        Args:
            what: as of `all`.
            make: called on rank 0.
            others: called on the other ranks, whose result does not count.

        Raises:
            FirstRankFailed: ``make`` has raised an exception on rank 0, which raises that one.
        """
        if self._group is None:
            return make()
        value, error = _tried(make if self.is_first else others)
        shown = one_line(error) if error is not None and self.is_first else ""
        value, shown = self.all(what, (value if self.is_first else None, shown))[0]
        if self.is_first and error is not None:
            raise error
        if shown:
            raise FirstRankFailed(f"rank 0 has failed: {shown}")
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # of rank 0

    def agree(self, of_first: Callable[[], bool]) -> bool:
        """Return the answer of rank 0 on every rank; quicker than `first`, for questions of each step."""
        if self._group is None:
            return of_first()
        return bool(self.sum(torch.tensor(float(self.is_first and of_first()))))

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor on the host over the ranks, in its place; no device is waited for."""
        if self._group is not None:
            dist.all_reduce(values, group=self._group)
        return values

    def mean(self, what: str, values: Tensor) -> Tensor:
        """Return the mean of each number over the ranks that have it: neither NaN nor 0; NaN if none has.

        Raises:
            ValueError: the shapes differ.
        """
        if self._group is None:
            return values
        found = self.all(what, values)
        shapes = [tuple(one.shape) for one in found]
        if len(set(shapes)) > 1:
            fail(what, "as many steps on every rank", ", ".join(str(shape[0]) for shape in shapes))
        stacked = torch.stack(found)
        mean = torch.where(stacked == 0, torch.nan, stacked).nanmean(0)
        return torch.where((stacked == stacked[0]).all(0), stacked[0], mean)  # a mean of equal numbers may round


ALONE = Ranks()
"""One process."""


def _tried(call: Callable[[], Any] | None) -> tuple[Any, BaseException | None]:
    try:
        return None if call is None else call(), None
    except BaseException as error:  # raised once the other ranks know
        return None, error


def listening(host: str) -> Any:
    """Return the store of rank 0, through which the others find it, on a free port."""
    return _tcp_store(host, 0, is_master=True, wait_for_workers=False, timeout=JOIN_LIMIT)


def join(place: Place, store: Any, device: torch.device) -> tuple[Ranks, torch.device]:
    """Initialise the default process group: NCCL on GPUs, gloo on CPUs.

    Args:
        place: of this process.
        store: `listening` on rank 0, ``None`` on others.
        device: of this process.

    Returns:
        The ranks, and the device to train on: the CPU if the device of any rank is one.
    """
    if store is None:
        store = _tcp_store(place.host, place.port, is_master=False, timeout=JOIN_LIMIT)
    store.set(f"gradsweep/device/{place.rank}", device.type)
    if any(store.get(f"gradsweep/device/{rank}") == b"cpu" for rank in range(place.size)):
        device = torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size)
    return Ranks(dist.new_group(backend="gloo", timeout=WAIT_LIMIT)), device


def leave(ranks: Ranks) -> None:
    """Destroy the process group once all ranks have come here, unless the function has done so."""
    if dist.is_initialized():
        ranks.all("the end of the training function", None)
        dist.destroy_process_group()


@contextmanager
def announced(place: Place) -> Iterator[None]:
    """Set the environment variables of a place inside the block."""
    before = dict(os.environ)
    os.environ.update(place.environment())
    try:
        yield
    finally:
        for name in place.environment():
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
