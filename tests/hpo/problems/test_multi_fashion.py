from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from hpo.core.errors import ProblemError
from hpo.problems import multi_fashion_files
from hpo.problems.base import Split
from hpo.problems.multi_fashion import Architecture, CanvasNetwork, MultiFashion, brightness
from hpo.problems.multi_fashion_files import (
    CANVAS,
    DIGITS_FILE,
    DIGITS_VARIABLE,
    FASHION_FILES,
    FASHION_TRAIN_FILE,
    FASHION_VARIABLE,
    SIZES,
    Images,
    Pictures,
    Preset,
    compose,
    draw_pairs,
    read_digits,
    read_fashion,
    read_idx,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture(scope="module")
def fashion(fashion_files: list[Path]) -> Pictures:
    return read_fashion()


@pytest.fixture(scope="module")
def digits(digits_file: Path) -> Pictures:
    return read_digits()


def rows(problem: MultiFashion, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    canvases, classes = zip(*problem.loader(split, 0), strict=True)
    return torch.cat(canvases), torch.cat(classes)


def constant_network(problem: MultiFashion) -> CanvasNetwork:
    """Answers class 3 for both pictures and a brightness of one half, whatever the canvas."""
    model = problem.build_model(0).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for task in ("top_left", "bottom_right"):
            bias(model, task)[3] = 5.0
    return model


def bias(model: CanvasNetwork, task: str) -> torch.Tensor:
    head = model.heads[task]
    assert isinstance(head, nn.Linear)
    return head.bias


def test_fashion_has_its_balanced_classes(fashion: Pictures) -> None:
    pictures, classes = fashion
    assert pictures.shape == (70_000, 28, 28)
    assert pictures.max() == 255
    assert np.bincount(classes[:FASHION_TRAIN_FILE]).tolist() == [6_000] * 10
    assert np.bincount(classes[FASHION_TRAIN_FILE:]).tolist() == [1_000] * 10


def test_digits_have_their_balanced_classes(digits: Pictures) -> None:
    pictures, classes = digits
    assert pictures.shape == (5_000, 28, 28)
    assert np.array_equal(classes, np.repeat(np.arange(10), 500))
    assert pictures[classes == 1].mean() < pictures[classes == 0].mean()  # a one takes less ink than a zero


@pytest.mark.parametrize("images", get_args(Images))
@pytest.mark.parametrize("preset", get_args(Preset))
def test_splits_have_their_size_and_share_no_picture(preset: Preset, images: Images) -> None:
    pairs = draw_pairs(preset, images)
    assert {split: len(pairs[split]) for split in SPLITS} == SIZES[preset]
    first, second = ({split: set(pairs[split][:, place].tolist()) for split in SPLITS} for place in (0, 1))
    fashion = {split: first[split] | second[split] for split in SPLITS} if images == "fashion" else first
    for sources in (fashion, second):
        assert not sources["train"] & sources["val"]
        assert not (sources["train"] | sources["val"]) & sources["test"]
    assert max(fashion["train"] | fashion["val"]) < FASHION_TRAIN_FILE <= min(fashion["test"])
    assert max(fashion["test"]) < 70_000


def test_the_digits_are_cut_as_stated() -> None:
    pairs = draw_pairs("full", "fashion_mnist")
    assert [len(set(pairs[split][:, 1].tolist())) for split in SPLITS] == [3_500, 500, 1_000]
    assert max(pairs[split][:, 1].max() for split in SPLITS) == 4_999


@pytest.mark.parametrize("images", get_args(Images))
def test_the_small_preset_is_part_of_the_full_one(images: Images) -> None:
    small, full = draw_pairs("small", images), draw_pairs("full", images)
    assert all(np.array_equal(small[split], full[split][: len(small[split])]) for split in SPLITS)


def test_the_brighter_pixel_shows_where_pictures_overlap() -> None:
    random = np.random.default_rng(0)
    first, second = random.integers(0, 256, (2, 5, 28, 28), dtype=np.uint8)
    canvases = compose(first, second)
    for row in range(CANVAS):
        for column in range(CANVAS):
            under = first[:, row, column] if max(row, column) < 28 else np.zeros(5, dtype=np.uint8)
            over = second[:, row - 8, column - 8] if min(row, column) >= 8 else np.zeros(5, dtype=np.uint8)
            assert np.array_equal(canvases[:, row, column], np.maximum(under, over))


@pytest.mark.parametrize("images", get_args(Images))
@pytest.mark.parametrize("split", ["val", "test"])
def test_loaded_canvases_show_the_pairs(fashion: Pictures, digits: Pictures, images: Images, split: Split) -> None:
    first, second = fashion, fashion if images == "fashion" else digits
    left, right = draw_pairs("small", images)[split].T
    canvases, classes = rows(MultiFashion(images=images), split)
    assert np.array_equal(canvases.numpy(), compose(first[0][left], second[0][right]))
    assert np.array_equal(classes.numpy(), np.stack([first[1][left], second[1][right]], axis=1))
    assert (canvases.dtype, classes.dtype) == (torch.uint8, torch.int64)


@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_losses_start_raw(architecture: Architecture) -> None:
    problem = MultiFashion(architecture=architecture)
    batch = (torch.randint(0, 256, (64, CANVAS, CANVAS), dtype=torch.uint8), torch.randint(0, 10, (64, 2)))
    losses = problem.losses(problem.build_model(0), batch)
    assert losses["top_left"].item() == pytest.approx(math.log(10), rel=0.05)
    assert losses["bottom_right"].item() == pytest.approx(math.log(10), rel=0.05)
    assert losses["reconstruction"].item() == pytest.approx(CANVAS**2 * math.log(2), rel=0.05)


def test_the_reconstruction_loss_is_a_sum_over_pixels_and_a_mean_over_canvases() -> None:
    problem = MultiFashion()
    model = constant_network(problem)
    with torch.no_grad():
        bias(model, "reconstruction").fill_(math.log(3))
    canvases = torch.zeros(2, CANVAS, CANVAS, dtype=torch.uint8)
    canvases[0, :10, :10] = 255
    losses = problem.losses(model, (canvases, torch.full((2, 2), 3)))
    bright, dark = 100, 2 * CANVAS**2 - 100  # held against a brightness of 3/4
    expected = (-bright * math.log(3 / 4) - dark * math.log(1 / 4)) / 2
    assert losses["reconstruction"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("fashion_files")
def test_metrics_are_those_of_the_whole_split() -> None:
    problem = MultiFashion()
    with torch.no_grad():
        measured = problem.evaluate(constant_network(problem), "test")
    canvases, classes = rows(problem, "test")
    assert measured["top_left"] == pytest.approx((classes[:, 0] == 3).float().mean().item())
    assert measured["bottom_right"] == pytest.approx((classes[:, 1] == 3).float().mean().item())
    assert measured["reconstruction"] == pytest.approx((brightness(canvases) - 0.5).square().mean().item(), rel=1e-5)


@pytest.mark.usefixtures("fashion_files")
def test_one_head_of_nan_leaves_the_others_metrics() -> None:
    problem = MultiFashion()
    model = constant_network(problem)
    with torch.no_grad():
        bias(model, "top_left")[7] = math.nan
        measured = problem.evaluate(model, "val")
    assert math.isnan(measured["top_left"])
    assert not math.isnan(measured["bottom_right"] + measured["reconstruction"])


@pytest.mark.parametrize(("architecture", "inputs"), [("lenet", 32 * 6 * 6), ("mlp", 24)])
def test_the_shared_layer_ends_the_trunk(architecture: Architecture, inputs: int) -> None:
    problem = MultiFashion(architecture=architecture, hidden=24)
    model = problem.build_model(0)
    shared = problem.shared_layer(model)
    assert isinstance(shared, nn.Linear)
    assert (shared.in_features, shared.out_features) == (inputs, 24)
    outputs = model(torch.zeros(2, CANVAS, CANVAS))
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {
        "top_left": (2, 10),
        "bottom_right": (2, 10),
        "reconstruction": (2, CANVAS**2),
    }


def test_the_reconstruction_can_be_left_out() -> None:
    problem = MultiFashion(reconstruction=False)
    assert [task.name for task in problem.tasks] == ["top_left", "bottom_right"]
    assert problem.data_hash() != MultiFashion().data_hash()


def test_the_hash_names_every_size_and_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small preset is cut from the full one."""
    hashes = {MultiFashion().data_hash()}
    for name in ("FASHION_VAL", "DIGITS_VAL", "DIGITS_TEST"):
        with monkeypatch.context() as patch:
            patch.setattr(multi_fashion_files, name, 100)
            hashes.add(MultiFashion().data_hash())
    monkeypatch.setitem(SIZES["full"], "train", 100_000)
    assert len(hashes | {MultiFashion().data_hash()}) == 5


def idx(path: Path, header: bytes, elements: int) -> Path:
    path.write_bytes(gzip.compress(header + bytes(range(elements))))
    return path


def test_an_idx_file_is_read_in_its_shape(tmp_path: Path) -> None:
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3])
    assert read_idx(idx(tmp_path / "a.gz", header, 6), dimensions=3).tolist() == [[[0, 1, 2]], [[3, 4, 5]]]


@pytest.mark.parametrize(
    ("header", "elements", "message"),
    [
        ([0, 0, 8, 3, 0, 0, 0, 4], 4, "expected the IDX header 00000801, got 00000803"),
        ([0, 0, 13, 1, 0, 0, 0, 1], 4, "expected the IDX header 00000801, got 00000d01"),
        ([0, 0], 0, "expected the IDX header 00000801, got 0000"),
        ([0, 0, 8, 1, 0, 0, 1, 1], 256, r"expected 257 elements of shape \[257\], got 256"),
        ([0, 0, 8, 1, 0, 0, 0, 3], 4, r"expected 3 elements of shape \[3\], got 4"),
        ([0, 0, 8, 1], 0, "elements of shape"),
    ],
)
def test_another_file_is_no_idx(tmp_path: Path, header: list[int], elements: int, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        read_idx(idx(tmp_path / "a.gz", bytes(header), elements), dimensions=1)


@pytest.mark.parametrize("damaged", [*FASHION_FILES, DIGITS_FILE])
def test_a_damaged_file_is_named(
    fashion_files: list[Path], digits_file: Path, damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = Path(damaged).name
    for file in (*fashion_files, digits_file):
        copy = tmp_path / file.name
        if file.name == name:
            copy.write_bytes(file.read_bytes()[:-1])
        else:
            copy.symlink_to(file)
    monkeypatch.setenv(FASHION_VARIABLE, str(tmp_path))
    monkeypatch.setenv(DIGITS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ProblemError, match=f"{name}: expected the sha256 .*, got "):
        MultiFashion(images="fashion_mnist").prepare()
    assert not (tmp_path / "cache").exists()


def test_missing_clothes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FASHION_VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3-ubyte\.gz; correct GRADSWEEP_FASHION, or .*apt-get install"
    ):
        MultiFashion().prepare()


@pytest.mark.usefixtures("fashion_files")
def test_digits_are_needed_where_they_show_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIGITS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    MultiFashion().prepare()
    with pytest.raises(
        FileNotFoundError, match=r"mnist_5k\.csv\.gz; correct GRADSWEEP_DIGITS, or .*gradsweep\[images\]"
    ):
        MultiFashion(images="fashion_mnist").prepare()


@pytest.mark.usefixtures("fashion_files")
def test_the_cache_is_enough_without_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MultiFashion().prepare()
    monkeypatch.setenv(FASHION_VARIABLE, str(tmp_path))
    MultiFashion(reconstruction=False, architecture="mlp").prepare()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "tiny"}, "preset: expected 'small', 'full', got 'tiny'"),
        ({"images": "mnist"}, "images: expected 'fashion', 'fashion_mnist', got 'mnist'"),
        ({"reconstruction": 1}, "reconstruction: expected True, False, got 1"),
        ({"architecture": "resnet"}, "architecture: expected 'lenet', 'mlp', got 'resnet'"),
        ({"hidden": 0}, "hidden: expected an integer >= 1, got 0"),
        ({"batch_size": 20_001}, "batch_size: expected at most the 20000 rows of the training split, got 20001"),
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"learning_rate": -1}, "learning_rate: expected a finite number > 0, got -1"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        MultiFashion(**arguments)
    assert str(caught.value) == message


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_files")
def test_the_network_learns_every_task() -> None:
    """After one epoch; a constant prediction has accuracies of 0.1 and an MSE of 0.075."""
    measured = _train(MultiFashion(epochs=1), (1.4925, 1.4925, 0.015))
    assert measured["top_left"] > 0.72
    assert measured["bottom_right"] > 0.66
    assert measured["reconstruction"] < 0.04


@pytest.mark.slow
@pytest.mark.usefixtures("fashion_files")
def test_weights_that_balance_the_losses_beat_equal_ones() -> None:
    equal = _train(MultiFashion(epochs=1, architecture="mlp"), (1.0, 1.0, 1.0))
    balanced = _train(MultiFashion(epochs=1, architecture="mlp"), (1.4925, 1.4925, 0.015))
    assert equal["top_left"] < balanced["top_left"] - 0.08
    assert equal["bottom_right"] < balanced["bottom_right"] - 0.08
    assert max(equal["reconstruction"], balanced["reconstruction"]) < 0.04


def _train(problem: MultiFashion, weights: tuple[float, ...]) -> dict[str, float]:
    model = problem.build_model(0)
    optimizer = problem.build_optimizer(model)
    loader = problem.loader("train", 0)
    for _ in range(problem.epochs):
        for batch in loader:
            losses = problem.losses(model, batch).values()
            optimizer.zero_grad()
            torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return problem.evaluate(model.eval(), "test")
