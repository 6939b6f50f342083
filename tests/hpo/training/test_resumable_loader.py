"""The position of a run in its data: after a restore, every loader continues with the same batches."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from hpo.training.resumable_loader import DataOrder, read_state, seed_all, set_state
from tests.helpers.loaders import CPU, EPOCHS, LOADERS, WITH_WORKERS, Telling


def step(batch: Any) -> list[Any]:
    """Return the inputs of a training step: its batch, and random numbers of the global generators."""
    return [*(part.tolist() for part in batch), torch.rand(2).tolist(), random.gauss(0, 1), float(np.random.randn())]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    found: dict[str, Any] = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    return found


def train(make: Callable[[], Iterable[Any]]) -> tuple[list[Any], list[dict[str, Any]]]:
    """Return the inputs of each step, and the state after each."""
    seed_all(0)
    order, seen, states = DataOrder(make(), CPU), [], []
    for _ in range(EPOCHS):
        for batch in order.epoch():
            seen.append(step(batch))
            states.append(through_a_file(order.state()))
        torch.rand(3)  # an evaluation
    return seen, states


def go_on(make: Callable[[], Iterable[Any]], state: dict[str, Any], epochs: int) -> tuple[list[Any], DataOrder]:
    """Return the inputs of each step after a state, in a process that has drawn other numbers since its start."""
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


def test_a_loader_with_a_state_dict_is_not_iterated_again() -> None:
    _, states = train(Telling)
    made: list[Telling] = []

    def make() -> Telling:
        made.append(Telling())
        return made[-1]

    go_on(make, states[-2], 2)
    assert [one.iterated for one in made] == [1]


@pytest.mark.parametrize("name", ["ShuffledBatches", "list", "global generator", "own generator", "batch sampler"])
def test_a_loader_of_torch_generators_is_restored_and_not_iterated_again(name: str) -> None:
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
