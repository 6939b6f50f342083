"""Loaders of every kind that a problem may have."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    random_split,
)

from hpo.problems.data_cache import ShuffledBatches

CPU = torch.device("cpu")
ROWS = 24
SIZE = 6
EPOCHS = 3
STEPS = EPOCHS * ROWS // SIZE

Row = tuple[Tensor, Tensor]


class Noisy(Dataset[Row]):
    """Rows with noise from each of the global generators, as data augmentation often draws it."""

    def __init__(self, rows: int = ROWS) -> None:
        generator = torch.Generator().manual_seed(rows)
        self.x = torch.randn(rows, 4, generator=generator)
        self.y = self.x @ torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.0, 1.0], [1.0, 0.0, 2.0], [-1.0, 1.0, 1.0]])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Row:
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1) + float(torch.randn(()))
        return self.x[row] + 0.1 * noise, self.y[row]


class Transformed(Noisy):
    """Rows with noise from a generator that a transform has for itself."""

    def __init__(self, *transforms: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.transforms = list(transforms)

    def __getitem__(self, row: int) -> Row:
        x = self.x[row]
        for transform in self.transforms:
            x = transform(x)
        return x, self.y[row]


class NumpyNoise:
    def __init__(self) -> None:
        self.generator = np.random.default_rng(5)

    def __call__(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.generator.normal()


class TorchNoise:
    def __init__(self) -> None:
        self.source = torch.Generator().manual_seed(5)

    def __call__(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn((), generator=self.source)


class NumpySampler(Sampler[int]):
    """An order from a generator that torch does not know."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(6)

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[int]:
        return iter(self.generator.permutation(ROWS).tolist())


class Stream(IterableDataset[Row]):
    """A stream in another order each time."""

    def __init__(self) -> None:
        self.data, self.generator = Noisy(), torch.Generator().manual_seed(7)

    def __iter__(self) -> Iterator[Row]:
        return (self.data[row] for row in torch.randperm(ROWS, generator=self.generator).tolist())


class Buffered(IterableDataset[Row]):
    """A stream through a shuffle buffer: the next example depends on all earlier numbers, here of `random`."""

    def __iter__(self) -> Iterator[Row]:
        data, buffer = Noisy(), []
        for row in range(ROWS):
            buffer.append(data[row])
            if len(buffer) == 9:
                yield buffer.pop(self.draw(9))
        while buffer:
            yield buffer.pop(self.draw(len(buffer)))

    def draw(self, below: int) -> int:
        return random.randrange(below)


class TorchBuffered(Buffered):
    """The same with torch's global generator."""

    def draw(self, below: int) -> int:
        return int(torch.randint(below, ()))


class Custom:
    """An iterable with its own generator and without a state."""

    def __init__(self) -> None:
        self.data, self.generator = Noisy(), random.Random(8)

    def __iter__(self) -> Iterator[list[Tensor]]:
        rows = self.generator.sample(range(ROWS), ROWS)
        for start in range(0, ROWS, SIZE):
            x, y = zip(*(self.data[row] for row in rows[start : start + SIZE]), strict=True)
            yield [torch.stack(x), torch.stack(y)]


class Telling(Custom):
    """The same with torchdata's convention; it must not be iterated again."""

    def __init__(self) -> None:
        super().__init__()
        self.iterated = 0

    def __iter__(self) -> Iterator[list[Tensor]]:
        self.iterated += 1
        return super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.setstate(state["generator"])


class Counting(DataLoader[Row]):
    """A DataLoader that counts its epochs, with an incomplete state, as torchdata's."""

    epoch = 0

    def __iter__(self) -> Any:
        self.epoch += 1
        for x, y in super().__iter__():
            yield x + self.epoch, y

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {}


def loader(data: Any = None, **settings: Any) -> DataLoader[Any]:
    return DataLoader(Noisy() if data is None else data, **{"batch_size": SIZE} | settings)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def workers(**settings: Any) -> DataLoader[Any]:
    return loader(shuffle=True, num_workers=2, **settings)


LOADERS: dict[str, Callable[[], Iterable[Any]]] = {
    "ShuffledBatches": lambda: ShuffledBatches((Noisy().x, Noisy().y), SIZE, 3),
    "list": lambda: list(zip(Noisy().x.split(SIZE), Noisy().y.split(SIZE), strict=True)),
    "in order": loader,
    "global generator": lambda: loader(shuffle=True),
    "own generator": lambda: loader(shuffle=True, generator=generator()),
    "generator of the sampler": lambda: loader(sampler=RandomSampler(Noisy(), True, ROWS, generator())),
    "global generator of a subset": lambda: loader(sampler=SubsetRandomSampler(range(ROWS))),
    "batch sampler": lambda: loader(
        batch_size=1,
        batch_sampler=BatchSampler(WeightedRandomSampler([0.1] * ROWS, ROWS, True, generator()), SIZE, True),
    ),
    "no batches": lambda: loader(
        batch_size=None, sampler=BatchSampler(RandomSampler(Noisy(), generator=generator()), SIZE, True)
    ),
    "sampler of numpy": lambda: loader(sampler=NumpySampler()),
    "transform with numpy": lambda: loader(Transformed(torch.sin, NumpyNoise()), shuffle=True),
    "transform with torch": lambda: loader(Transformed(TorchNoise(), torch.sin), shuffle=True),
    "subset with numpy": lambda: loader(
        random_split(Transformed(NumpyNoise()), [18, 6], generator())[0], shuffle=True
    ),
    "counting": lambda: Counting(Noisy(), SIZE, shuffle=True, generator=generator()),
    "stream": lambda: loader(Stream()),
    "shuffle buffer": lambda: loader(Buffered()),
    "shuffle buffer of torch": lambda: loader(TorchBuffered()),
    "custom": Custom,
    "telling": Telling,
}
WITH_WORKERS: dict[str, Callable[[], Iterable[Any]]] = {
    "two workers": workers,
    "two workers, own generator": lambda: workers(generator=generator()),
    "two workers that stay": lambda: workers(persistent_workers=True),
}
