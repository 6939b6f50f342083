"""Where a run is in its data: put back, every loader gives what it would have given."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
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
from hpo.training.resumable_loader import DataOrder, read_state, seed_all, set_state

CPU = torch.device("cpu")
ROWS, SIZE, EPOCHS = 24, 6, 3
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
    """A stream through a shuffle buffer: what comes next hangs on every number drawn before, here from `random`."""

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
    """An iterable with a generator of its own that cannot tell where it is."""

    def __init__(self) -> None:
        self.data, self.generator = Noisy(), random.Random(8)

    def __iter__(self) -> Iterator[list[Tensor]]:
        rows = self.generator.sample(range(ROWS), ROWS)
        for start in range(0, ROWS, SIZE):
            x, y = zip(*(self.data[row] for row in rows[start : start + SIZE]), strict=True)
            yield [torch.stack(x), torch.stack(y)]


class Telling(Custom):
    """The same with torchdata's convention; it must not be gone through again."""

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
    """A DataLoader that counts its epochs, and tells less of its state than the next one hangs on, as torchdata's."""

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


def step(batch: Any) -> list[Any]:
    """What a training step sees: its batch, and dropout and other noise from the global generators."""
    return [*(part.tolist() for part in batch), torch.rand(2).tolist(), random.gauss(0, 1), float(np.random.randn())]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    found: dict[str, Any] = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    return found


def train(make: Callable[[], Iterable[Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
    """What each step saw, and the state after each."""
    seed_all(0)
    order, seen, states = DataOrder(make(), CPU), [], []
    for _ in range(EPOCHS):
        for batch in order.epoch():
            seen.append(step(batch))
            states.append(through_a_file(order.state()))
        torch.rand(3)  # an evaluation
    return seen, states


def go_on(make: Callable[[], Iterable[Any]], state: dict[str, Any], epochs: int) -> tuple[list[Any], DataOrder]:
    """What each step sees after a state, in a process that has drawn other numbers since it began with its seed."""
    seed_all(0)
    order, seen = DataOrder(make(), CPU), []
    for epoch in range(epochs, EPOCHS):
        for batch in order.resume(state, epochs) if epoch == epochs else order.epoch():
            seen.append(step(batch))
        torch.rand(3)
    return seen, order


@pytest.mark.parametrize("name", LOADERS)
def test_a_run_goes_on_from_every_step_as_if_it_had_not_stopped(name: str) -> None:
    seen, states = train(LOADERS[name])
    batches = len(seen) // EPOCHS
    assert len({repr(one) for one in seen}) == len(seen) == EPOCHS * batches > EPOCHS
    for done, state in enumerate(states, 1):
        found, _ = go_on(LOADERS[name], state, (done - 1) // batches)
        assert found == seen[done:], done


@pytest.mark.parametrize("name", WITH_WORKERS)
def test_a_run_with_worker_processes_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    seen, states = train(WITH_WORKERS[name])
    for done in (2, 7, 12):
        assert go_on(WITH_WORKERS[name], states[done - 1], (done - 1) // 4)[0] == seen[done:], done


@pytest.mark.parametrize("name", ["ShuffledBatches", "own generator", "transform with numpy", "custom", "telling"])
def test_a_run_that_goes_on_can_stop_and_go_on_again(name: str) -> None:
    seen, states = train(LOADERS[name])
    rest = go_on(LOADERS[name], states[4], 1)[0]
    seed_all(0)
    order = DataOrder(LOADERS[name](), CPU)
    batches = order.resume(states[4], 1)
    assert [step(next(batches)) for _ in range(2)] == rest[:2]
    assert go_on(LOADERS[name], through_a_file(order.state()), 1)[0] == rest[2:] == seen[7:]


def test_a_loader_that_tells_its_state_is_not_gone_through_again() -> None:
    _, states = train(Telling)
    made: list[Telling] = []

    def make() -> Telling:
        made.append(Telling())
        return made[-1]

    go_on(make, states[-2], 2)
    assert [one.iterated for one in made] == [1]


@pytest.mark.parametrize("name", ["ShuffledBatches", "list", "global generator", "own generator", "batch sampler"])
def test_what_torch_itself_draws_is_set_and_not_gone_through_again(name: str) -> None:
    state = train(LOADERS[name])[1][0]
    assert state["begin"]["loader"] is not None


def test_a_loader_that_has_become_shorter_does_not_fit() -> None:
    state = train(LOADERS["list"])[1][3]
    with pytest.raises(StopIteration):
        DataOrder(list(LOADERS["list"]())[:2], CPU).resume(state, 0)


def test_a_loader_that_has_lost_its_generator_does_not_fit() -> None:
    state = train(LOADERS["own generator"])[1][3]
    with pytest.raises(ValueError, match="longer than"):
        DataOrder(LOADERS["global generator"](), CPU).resume(state, 0)


def test_all_global_generators_are_read_and_set_with_the_number_they_keep_in_hand() -> None:
    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.randn()), float(torch.randn(())), random.random()]

    seed_all(3)
    draw()  # gauss and randn make two numbers at a time
    state = through_a_file(read_state(CPU))
    expected = [draw() for _ in range(5)]
    seed_all(4)
    assert draw() not in expected
    set_state(state, CPU)
    assert [draw() for _ in range(5)] == expected


def test_a_seed_fixes_what_every_global_generator_draws() -> None:
    def draw(seed: int) -> list[float]:
        seed_all(seed)
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    assert draw(1) == draw(1)
    assert all(one != other for one, other in zip(draw(1), draw(2), strict=True))
