from __future__ import annotations

import pytest
import torch

from hpo.problems.toy import Toy, generate


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
