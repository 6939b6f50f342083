from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch

from balancers import GradNorm
from hpo.core.errors import ProblemError
from hpo.problems.toy import Heads, Toy, generate


def test_scales_run_from_one_to_the_largest() -> None:
    assert Toy(2).sigmas == (1.0, 100.0)
    assert Toy(3).sigmas == pytest.approx((1.0, 10.0, 100.0))
    assert Toy(1).sigmas == (1.0,)
    assert Toy(10).sigmas == pytest.approx(torch.logspace(0, 2, 10).tolist(), rel=1e-5)


def test_targets_are_scaled_tanh_of_a_linear_map() -> None:
    sigmas = (1.0, 100.0)
    x, y = generate(sigmas, (1000, 10, 10), 0)["train"]
    assert x.shape == (1000, 250)
    assert y.shape == (1000, 2, 100)
    for i, sigma in enumerate(sigmas):
        scaled = y[:, i].double() / sigma
        assert 0.99 < scaled.abs().max() <= 1 + 1e-6
        maps = torch.stack([_linear_map(x.double(), scaled[:, output]) for output in range(5)])
        assert maps.var().item() == pytest.approx(10 + 3.5, rel=0.15)


def _linear_map(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The a of y = tanh(a x), recovered from the rows where tanh is not flat; asserts that it fits them."""
    steep = y.abs() < 0.99
    found = torch.linalg.lstsq(x[steep], y[steep].atanh()[:, None]).solution[:, 0]
    assert (x[steep] @ found - y[steep].atanh()).abs().max() < 1e-3
    return found


def test_tasks_share_what_the_variances_say() -> None:
    """The maps' variances are 10 shared and 3.5 own, so their correlation is 10 / 13.5."""
    _, y = generate((1.0, 1.0), (4000, 10, 10), 0)["train"]
    signs = y.sign()
    agreement = (signs[:, 0] * signs[:, 1]).mean().item()
    correlation = 10 / 13.5
    expected = 2 / torch.pi * torch.asin(torch.tensor(correlation)).item()
    assert agreement == pytest.approx(expected, abs=0.02)


def test_splits_differ_and_have_their_sizes() -> None:
    examples = generate((1.0,), (30, 20, 10), 0)
    assert [len(x) for x, _ in examples.values()] == [30, 20, 10]
    rows = torch.cat([x for x, _ in examples.values()])
    assert rows.unique(dim=0).shape == rows.shape


def test_a_data_seed_fixes_the_data() -> None:
    generate.cache_clear()
    one = generate((1.0,), (30, 20, 10), 7)["test"][1]
    generate.cache_clear()
    assert torch.equal(one, generate((1.0,), (30, 20, 10), 7)["test"][1])
    assert not torch.equal(one, generate((1.0,), (30, 20, 10), 8)["test"][1])


def test_given_scales_replace_the_spacing() -> None:
    toy = Toy(sigmas=[5, 1.0, 5])
    assert toy.sigmas == (5.0, 1.0, 5.0)
    assert toy.known_weights == pytest.approx({"f1": 0.04, "f2": 1.0, "f3": 0.04})
    assert Toy(sigma_max=1e19).known_weights is None  # training could not hold them


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sigmas": []}, "sigmas: expected a list of 1 to 100 numbers, got []"),
        ({"sigmas": [1.0, 0.0]}, r"sigmas[1]: expected a finite number > 0, got 0.0"),
        ({"heads": "tall"}, "heads: expected 'plain', 'scaled', got 'tall'"),
        ({"inputs": "long"}, "inputs: expected "),
        ({"examples": "few"}, "examples: expected "),
        ({"optimizer": "lion"}, "optimizer: expected "),
    ],
)
def test_refuses_what_it_cannot_use(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(words)):
        Toy(**arguments)


def test_a_stream_draws_new_examples_of_the_same_functions() -> None:
    toy = Toy(1, examples="stream", train=400, batch_size=100)
    x, y = generate(*toy._data())["val"]
    loader = toy.loader("train", 0)
    epochs = [tuple(torch.cat(parts) for parts in zip(*loader, strict=True)) for _ in range(2)]
    (first, targets), (second, _) = epochs
    assert first.shape == (400, 250)
    rows = torch.cat([first, second])
    assert rows.unique(dim=0).shape == rows.shape
    own = _linear_map(x.double(), y[:, 0, 3].double())
    torch.testing.assert_close((first.double() @ own).tanh().float(), targets[:, 0, 3], rtol=0, atol=2e-3)


def test_a_stream_goes_on_where_its_state_was_read() -> None:
    one, same = (Toy(2, examples="stream", train=300).loader("train", 5) for _ in range(2))
    list(one)
    state = one.state_dict()  # type: ignore[attr-defined]
    expected = [x for x, _ in one]
    same.load_state_dict(state)  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(expected, [x for x, _ in same], strict=True))


def test_inputs_of_variance_one_make_the_functions_signs() -> None:
    short, normal = (generate((1.0,), (500, 10, 10), 0, inputs)["train"] for inputs in ("short", "normal"))
    assert torch.equal(normal[0] / 250**0.5, short[0])
    assert (normal[1].abs() > 0.99).float().mean() > 0.9 > (short[1].abs() > 0.99).float().mean()


def test_scaled_heads_make_tasks_alike_but_for_sigma_squared() -> None:
    """The gradient of L_i / sigma_i^2 is the same whatever sigma_i; with plain heads it is not."""
    for heads, alike in (("scaled", True), ("plain", False)):
        gradients = []
        for sigma in (1.0, 30.0):
            toy = Toy(sigmas=[sigma], heads=heads, train=200)  # type: ignore[arg-type]
            model = toy.build_model(0)
            losses = toy.losses(model, next(iter(toy.loader("train", 0))))
            (losses["f1"] / sigma**2).backward()  # type: ignore[no-untyped-call]
            gradients.append(toy.shared_layer(model).weight.grad)  # type: ignore[union-attr]
        assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-7) is alike  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "exponent"), [("scaled", 2.0), ("plain", 1.0)])
def test_gradnorm_finds_the_known_weights_if_the_heads_know_the_scale(heads: Heads, exponent: float) -> None:
    toy = Toy(2, heads=heads, epochs=5)
    model = toy.build_model(0)
    optimizer = toy.build_optimizer(model)
    balancer = GradNorm.robust(["f1", "f2"], toy.shared_layer(model), alpha=0.0)
    loader = toy.loader("train", 0)
    for _ in range(toy.epochs):
        for batch in loader:
            optimizer.zero_grad()
            balancer.backward(toy.losses(model, batch))
            optimizer.step()
    w = balancer.mean_weights("geometric")
    assert torch.log(w[0] / w[1]).item() / math.log(100) == pytest.approx(exponent, abs=0.2)


def test_the_metric_has_no_scale() -> None:
    toy = Toy(train=100, val=50, test=9000)
    model = toy.build_model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        measured = toy.evaluate(model, "test")  # 9000 rows make two batches of unequal size
    assert measured["f1"] == pytest.approx(0.79, abs=0.01)
    assert measured["f2"] == pytest.approx(measured["f1"], abs=0.01)


@pytest.mark.slow
def test_equal_weights_lose_the_small_scale_and_inverse_variance_keeps_it() -> None:
    toy = Toy()
    equal = _train(toy, (1.0, 1.0))
    balanced = _train(toy, (2.0, 2.0e-4))
    assert balanced["f1"] < 0.7 < 0.79 < equal["f1"]
    assert max(balanced["f2"], equal["f2"]) < 0.78


def _train(toy: Toy, weights: tuple[float, ...]) -> dict[str, float]:
    model = toy.build_model(0)
    optimizer = toy.build_optimizer(model)
    loader = toy.loader("train", 0)
    for _ in range(toy.epochs):
        for batch in loader:
            losses = toy.losses(model, batch).values()
            optimizer.zero_grad()
            torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return toy.evaluate(model.eval(), "test")
