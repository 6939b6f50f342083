"""Losses and metrics of dense tasks, against plain numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hpo.problems.dense_metrics import (
    IGNORED,
    AngularError,
    DepthError,
    MeanIoU,
    angles,
    depth_loss,
    normals_loss,
    segmentation_loss,
)

B, H, W, C = 6, 5, 7, 4
CPU = torch.device("cpu")
Arguments = tuple[Tensor, ...]


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def depth(random: torch.Generator) -> Arguments:
    target = torch.rand(B, H, W, generator=random) * 10
    valid = torch.rand(B, H, W, generator=random) < 0.7
    output = torch.randn(B, 1, H, W, generator=random).requires_grad_()
    return output, target.where(valid, torch.nan), valid


def normals(random: torch.Generator) -> Arguments:
    target = torch.nn.functional.normalize(torch.randn(B, 3, H, W, generator=random), dim=1)
    valid = torch.rand(B, H, W, generator=random) < 0.7
    output = torch.randn(B, 3, H, W, generator=random).requires_grad_()
    return output, target * valid[:, None], valid


def segmentation(random: torch.Generator) -> Arguments:
    labels = torch.randint(IGNORED, C, (B, H, W), generator=random)
    return torch.randn(B, C, H, W, generator=random).requires_grad_(), labels


def doubles(x: Tensor) -> NDArray[np.float64]:
    return x.detach().numpy().astype(np.float64)


def expected_angles(output: Tensor, target: Tensor, valid: Tensor) -> NDArray[np.float64]:
    """At valid pixels, in degrees."""
    a, b = (np.moveaxis(doubles(x), 1, -1)[valid.numpy()] for x in (output, target))
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.asarray(np.degrees(np.arccos(cosines)))


def expected_iou(outputs: Tensor, labels: Tensor) -> list[float]:
    found, wanted = doubles(outputs).argmax(1), labels.numpy()
    known = wanted != IGNORED
    pairs = [((found == k) & known, (wanted == k) & known) for k in range(outputs.shape[1])]
    return [(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]


def chunked(metric: Any, *tensors: Tensor) -> float:
    """Over chunks of unlike size."""
    for chunk in zip(*(tensor.split([1, 3, 2]) for tensor in tensors), strict=True):
        metric.update(*chunk)
    value = metric.compute()
    assert type(value) is float
    return value


def test_depth_losses_are_means_over_valid_pixels(random: torch.Generator) -> None:
    output, target, valid = depth(random)
    errors = (doubles(output)[:, 0] - doubles(target))[valid.numpy()]
    assert depth_loss(output, target, valid, "l1").item() == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    assert depth_loss(output, target, valid).item() == pytest.approx((errors**2).mean(), rel=1e-6)


def test_losses_of_normals_are_means_over_valid_pixels(random: torch.Generator) -> None:
    output, target, valid = normals(random)
    cosines = np.cos(np.radians(expected_angles(output, target, valid)))
    assert normals_loss(output, target, valid).item() == pytest.approx((1 - cosines).mean(), rel=1e-5)
    either = normals_loss(output, target, valid, either_side=True).item()
    assert either == pytest.approx((1 - np.abs(cosines)).mean(), rel=1e-5)
    assert either < (1 - cosines).mean()


def test_the_loss_of_segmentation_is_a_mean_over_labelled_pixels(random: torch.Generator) -> None:
    output, labels = segmentation(random)
    logits, wanted = np.moveaxis(doubles(output), 1, -1), labels.numpy()
    rows = logits[wanted != IGNORED]
    likelihoods = rows[np.arange(len(rows)), wanted[wanted != IGNORED]] - np.log(np.exp(rows).sum(-1))
    assert segmentation_loss(output, labels).item() == pytest.approx(-likelihoods.mean(), rel=1e-6)


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[[torch.Generator], Arguments]]] = {
    "depth, l1": (lambda *arguments: depth_loss(*arguments, "l1"), depth),
    "depth, l2": (depth_loss, depth),
    "normals": (normals_loss, normals),
    "normals, either side": (lambda *arguments: normals_loss(*arguments, either_side=True), normals),
    "segmentation": (segmentation_loss, segmentation),
}


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_that_are_not_valid_get_no_gradient(name: str, random: torch.Generator) -> None:
    loss, make = LOSSES[name]
    output, *rest = make(random)
    valid = rest[1] if len(rest) == 2 else rest[0] != IGNORED
    (gradient,) = torch.autograd.grad(loss(output, *rest), output)
    assert gradient.isfinite().all()
    assert torch.equal(gradient.ne(0).any(1), valid)


@pytest.mark.parametrize("name", LOSSES)
def test_without_a_valid_pixel_the_loss_is_zero_and_has_a_graph(name: str, random: torch.Generator) -> None:
    loss, make = LOSSES[name]
    output, *rest = make(random)
    rest[-1] = torch.full_like(rest[-1], IGNORED if len(rest) == 1 else False)
    value = loss(output, *rest)
    assert value.shape == ()
    assert value.item() == 0
    (gradient,) = torch.autograd.grad(value, output)
    assert not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_a_nan_output_makes_the_loss_nan(name: str, random: torch.Generator) -> None:
    loss, make = LOSSES[name]
    output, *rest = make(random)
    assert loss(torch.full_like(output, torch.nan), *rest).isnan()


def test_a_normal_of_length_zero_has_a_finite_gradient(random: torch.Generator) -> None:
    output, target, valid = normals(random)
    (gradient,) = torch.autograd.grad(
        normals_loss(zero := torch.zeros_like(output).requires_grad_(), target, valid), zero
    )
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["rms", "mae"])
def test_depth_errors_weigh_all_valid_pixels_alike(kind: Literal["rms", "mae"], random: torch.Generator) -> None:
    output, target, valid = depth(random)
    errors = (doubles(output)[:, 0] - doubles(target))[valid.numpy()]
    expected = {"rms": (errors**2).mean() ** 0.5, "mae": np.abs(errors).mean()}[kind]
    assert chunked(DepthError(kind, CPU), output.detach(), target, valid) == pytest.approx(expected, rel=1e-6)


def test_the_angular_error_is_a_mean_over_valid_pixels(random: torch.Generator) -> None:
    output, target, valid = normals(random)
    expected = expected_angles(output, target, valid).mean()
    assert chunked(AngularError(CPU), output.detach(), target, valid) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("radians", [0.0, 1e-6, 1e-3, 1.5, math.pi - 1e-3, math.pi])
def test_small_angles_are_exact(radians: float) -> None:
    a = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    b = 5 * torch.tensor([math.cos(radians), math.sin(radians), 0.0]).view(1, 3, 1, 1)
    assert angles(a, b).item() == pytest.approx(radians, rel=1e-5)


@pytest.mark.parametrize("length", [0.0, 1e-23])
def test_a_normal_without_length_is_at_a_right_angle_as_in_the_loss(length: float, random: torch.Generator) -> None:
    output, target, valid = normals(random)
    short = length * output.detach()
    assert chunked(AngularError(CPU), short, target, valid) == pytest.approx(90)
    assert normals_loss(short, target, valid).item() == pytest.approx(1)
    assert torch.equal(angles(short, torch.full_like(target, torch.nan)).isnan(), torch.ones(B, H, W).bool())


@pytest.mark.parametrize("length", [1e-15, 1e30])
def test_angles_do_not_depend_on_the_length(length: float, random: torch.Generator) -> None:
    output, target, valid = normals(random)
    expected = angles(output, target)[valid]
    assert torch.allclose(angles(length * output, target)[valid], expected, rtol=1e-5)


def test_mean_iou_counts_over_all_chunks(random: torch.Generator) -> None:
    output, labels = segmentation(random)
    expected = expected_iou(output, labels)
    assert len(expected) == C
    assert chunked(MeanIoU(C, CPU), output.detach(), labels) == pytest.approx(np.mean(expected), rel=1e-6)


def test_mean_iou_leaves_out_a_class_that_never_occurs(random: torch.Generator) -> None:
    output, labels = segmentation(random)
    absent = torch.cat([output.detach(), torch.full((B, 1, H, W), -100.0)], dim=1)
    expected = expected_iou(absent, labels)
    assert len(expected) == C
    assert chunked(MeanIoU(C + 1, CPU), absent, labels) == pytest.approx(np.mean(expected), rel=1e-6)


METRICS: dict[str, tuple[Callable[[], Any], Callable[[torch.Generator], Arguments]]] = {
    "rms": (lambda: DepthError("rms", CPU), depth),
    "mae": (lambda: DepthError("mae", CPU), depth),
    "angle": (lambda: AngularError(CPU), normals),
    "iou": (lambda: MeanIoU(C, CPU), segmentation),
}


@pytest.mark.parametrize("name", METRICS)
def test_a_nan_in_one_chunk_shows(name: str, random: torch.Generator) -> None:
    make, data = METRICS[name]
    output, *rest = (tensor.detach() for tensor in data(random))
    assert math.isfinite(chunked(make(), output, *rest))
    output[-1] = torch.nan
    assert math.isnan(chunked(make(), output, *rest))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.filterwarnings("error")
def test_a_split_without_a_valid_pixel_has_no_metric(name: str, random: torch.Generator) -> None:
    make, data = METRICS[name]
    output, *rest = (tensor.detach() for tensor in data(random))
    rest[-1] = torch.full_like(rest[-1], IGNORED if len(rest) == 1 else False)
    assert math.isnan(chunked(make(), output, *rest))


@pytest.mark.parametrize("name", METRICS)
def test_a_chunk_without_a_valid_pixel_changes_nothing(name: str, random: torch.Generator) -> None:
    make, data = METRICS[name]
    output, *rest = (tensor.detach() for tensor in data(random))
    metric, same = make(), make()
    metric.update(output, *rest)
    same.update(output, *rest)
    same.update(output, *rest[:-1], torch.full_like(rest[-1], IGNORED if len(rest) == 1 else False))
    assert same.compute() == metric.compute()
