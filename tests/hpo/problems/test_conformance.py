"""Properties of every built-in problem, whatever its data."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpo.problems import load_problem
from hpo.problems.base import Problem, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SMALL_TOY = {"train": 300, "val": 50, "test": 70}
SMALL_NYUV2 = {"width": 0.125, "image_size": 32, "batch_size": 4, "learning_rate": 1e-3}
# A problem's name, its arguments, and arguments that change its data, where there are such.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "toy": ("toy", SMALL_TOY, {"data_seed": 1}),
    "toy of ten": ("toy", {**SMALL_TOY, "functions": 10}, {"sigma_max": 10.0}),
    "toy, other choices": (
        "toy",
        {**SMALL_TOY, "heads": "scaled", "inputs": "normal", "examples": "stream", "optimizer": "sgd"}
        | {"learning_rate": 1e-6},
        {"examples": "fixed"},
    ),
    "census": ("census", {}, {"preset": "full"}),
    "census of four": ("census", {"weeks_worked": True}, {"weeks_worked": False}),
    "census, leaky": ("census", {"leaky": True}, {"leaky": False}),
    "qm9": ("qm9", {}, {"preset": "full"}),
    "qm9 of nine": ("qm9", {"targets": 9}, {"targets": 3}),
    "earth": ("earth", {}, {}),  # has one set of data
    "multi_fashion": ("multi_fashion", {}, {"preset": "full"}),
    "multi_fashion, digits": (
        "multi_fashion",
        {"images": "fashion_mnist", "reconstruction": False, "architecture": "mlp"},
        {"images": "fashion"},
    ),
    "nyuv2, made up": ("nyuv2", SMALL_NYUV2, {"stride": 2}),
    "nyuv2, made up, fcn": ("nyuv2", {**SMALL_NYUV2, "architecture": "fcn"}, {"split_seed": 1}),
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], dict[str, Any]]:
    if request.param.startswith("census"):
        request.getfixturevalue("census_files")
    if request.param.startswith("earth"):
        request.getfixturevalue("earth_files")
    if request.param.startswith("qm9"):
        request.getfixturevalue("qm9_files")
    if request.param.startswith("multi_fashion"):
        request.getfixturevalue("fashion_files")
    if request.param == "multi_fashion, digits":
        request.getfixturevalue("digits_file")
    if request.param.startswith("nyuv2"):
        request.getfixturevalue("made_up_nyuv2")
    return CASES[request.param]


@pytest.fixture
def problem(case: tuple[str, dict[str, Any], dict[str, Any]]) -> Problem:
    return load_problem(case[0], case[1])


def first_batch(problem: Problem, split: Split = "train", seed: int = 0) -> Any:
    return next(iter(problem.loader(split, seed)))


def shared_parameters(problem: Problem, model: nn.Module) -> list[Tensor]:
    shared = problem.shared_layer(model)
    return [shared] if isinstance(shared, nn.Parameter) else list(shared.parameters())


def test_losses_are_one_scalar_with_graph_for_each_task(problem: Problem) -> None:
    losses = problem.losses(problem.build_model(0), first_batch(problem))
    assert list(losses) == [task.name for task in problem.tasks]
    assert all(loss.shape == () and loss.requires_grad and loss.isfinite() and loss > 0 for loss in losses.values())


def test_the_shared_layer_gets_a_gradient_from_every_task(problem: Problem) -> None:
    model = problem.build_model(0)
    parameters = shared_parameters(problem, model)
    for task, loss in problem.losses(model, first_batch(problem)).items():
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        assert all(gradient.norm() > 0 for gradient in gradients), task


def test_a_head_gets_a_gradient_from_its_own_task_alone(problem: Problem) -> None:
    model = problem.build_model(0)
    losses = problem.losses(model, first_batch(problem))
    own = [set(_touched(model, loss)) for loss in losses.values()]
    trunk = set.intersection(*own)
    for left in range(len(own)):
        for right in range(left):
            assert own[left] & own[right] == trunk


def _touched(model: nn.Module, loss: Tensor) -> list[str]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None]


def test_a_seed_fixes_the_model_and_leaves_the_global_state(problem: Problem) -> None:
    state = torch.get_rng_state()
    one, same, other = (problem.build_model(seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)


def test_a_seed_fixes_the_order_of_every_epoch(problem: Problem) -> None:
    one, same, other = (problem.loader("train", seed) for seed in (3, 3, 4))
    epochs = [next(iter(one))[0] for _ in range(3)]
    repeated = [next(iter(same))[0] for _ in range(3)]
    assert all(torch.equal(a, b) for a, b in zip(epochs, repeated, strict=True))
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], next(iter(other))[0])


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_and_test_keep_their_order(problem: Problem, split: Split) -> None:
    assert torch.equal(first_batch(problem, split, seed=0)[0], first_batch(problem, split, seed=1)[0])


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_is_evaluated_on_every_split(problem: Problem, split: Split) -> None:
    with torch.no_grad():
        measured = problem.evaluate(problem.build_model(0).eval(), split)
    assert list(measured) == [task.name for task in problem.tasks]
    assert all(type(value) is float and math.isfinite(value) for value in measured.values())


def test_a_step_of_the_optimizer_lowers_the_training_loss(problem: Problem) -> None:
    model = problem.build_model(0)
    optimizer = problem.build_optimizer(model)
    batch = first_batch(problem)
    totals = []
    for _ in range(20):
        total = torch.stack(list(problem.losses(model, batch).values())).sum()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < totals[0]


def test_the_hash_names_the_data(case: tuple[str, dict[str, Any], dict[str, Any]], problem: Problem) -> None:
    name, arguments, change = case
    before = problem.data_hash()
    problem.prepare()
    first_batch(problem)
    assert problem.data_hash() == before == load_problem(name, arguments).data_hash()
    assert load_problem(name, {**arguments, "epochs": 3, "learning_rate": 0.1}).data_hash() == before
    assert not change or load_problem(name, {**arguments, **change}).data_hash() != before


def test_a_problem_is_pickled_without_its_data(problem: Problem) -> None:
    first_batch(problem)
    sent = pickle.dumps(problem)
    assert len(sent) < 10_000
    assert torch.equal(first_batch(pickle.loads(sent))[0], first_batch(problem)[0])


def test_a_nan_in_the_network_shows_in_the_metrics(problem: Problem) -> None:
    model = problem.build_model(0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
        measured = problem.evaluate(model, "val")
    assert all(math.isnan(value) for value in measured.values())
