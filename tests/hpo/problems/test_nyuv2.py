"""NYU Depth V2, on small made-up files in its layouts."""

from __future__ import annotations

import math
import pickle
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor

from balancers import GradNorm
from hpo.core.errors import ProblemError
from hpo.problems.base import Split
from hpo.problems.data_cache import ordered_batches
from hpo.problems.nyuv2 import EVALUATION_IMAGES, NYUv2
from hpo.problems.nyuv2_files import (
    FX,
    FY,
    HEIGHT,
    IMAGES,
    LABELED,
    PLANE_RADIUS,
    SPLITS,
    TO_13,
    TO_40,
    TRAIN_IMAGES,
    VARIABLE,
    WIDTH,
    normals_from_depths,
)
from tests.helpers.nyuv2_files import maps, scene, write_labeled, write_npy

SMALL: dict[str, Any] = {"width": 0.125, "image_size": 32, "batch_size": 4}
SPLIT = ([1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20], [2, 4, 6, 8, 10, 12, 14, 16, 18])


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labeled(tmp_path_factory.mktemp("labeled"), split=SPLIT)


@pytest.fixture(scope="module")
def npy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npy(tmp_path_factory.mktemp("npy"))


@pytest.fixture(params=["labeled", "npy"])
def problem(request: pytest.FixtureRequest) -> NYUv2:
    return NYUv2(str(request.getfixturevalue(request.param)), **SMALL)


def rows(problem: NYUv2, split: Split) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*ordered_batches(problem._rows(split)), strict=True)]


def nearest(array: Any, grid: int) -> Any:
    """A source's values at the centres of a grid."""
    place = (((np.arange(grid) + 0.5) * side / grid).astype(int) for side in array.shape[:2])
    return array[np.ix_(*place)]


def test_the_defaults_are_the_papers() -> None:
    problem = NYUv2()
    assert (problem.image_size, problem.image_size // problem.stride, problem.batch_size) == (320, 80, 24)
    train = TRAIN_IMAGES - round(0.1 * TRAIN_IMAGES)
    assert problem.epochs * (train // problem.batch_size) == pytest.approx(20_000, rel=0.01)
    assert (problem.architecture, problem.width) == ("segnet", 1.0)


def test_the_official_split_is_read_and_val_is_drawn_from_train(labeled: Path) -> None:
    def numbers(seed: int, split: Split) -> list[int]:
        """Of the pictures, counted from 1: their corner's depth tells them."""
        found = rows(NYUv2(str(labeled), split_seed=seed, **SMALL), split)[1][:, 0, 0].numpy()
        known = np.array([nearest(scene(number, 48, 64)["depths"], 8)[0, 0] for number in range(20)])
        return [int(np.abs(known - depth).argmin()) + 1 for depth in found]

    assert numbers(0, "test") == numbers(1, "test") == SPLIT[1]
    assert sorted(numbers(0, "train") + numbers(0, "val")) == SPLIT[0]
    assert len(numbers(0, "val")) == 1
    assert len({tuple(numbers(seed, "val")) for seed in range(4)}) > 1


def test_targets_are_those_nearest_to_the_centres_of_output_pixels(labeled: Path) -> None:
    _, depths, normals, labels = rows(NYUv2(str(labeled), **SMALL), "test")
    to_40, to_13 = maps()
    to_class = np.concatenate([[-1], to_13[to_40 - 1] - 1])
    for row, number in enumerate(SPLIT[1]):
        example = scene(number - 1, 48, 64)
        assert np.array_equal(depths[row].numpy(), nearest(example["depths"], 8))
        assert np.array_equal(labels[row].numpy(), to_class[nearest(example["labels"], 8)])
        expected = np.moveaxis(nearest(normals_from_depths(example["depths"]), 8), -1, 0)
        assert np.array_equal(normals[row].numpy(), expected)


def test_pictures_are_upright_and_keep_their_brightness(problem: NYUv2) -> None:
    source = scene(1, 48, 64) if "labeled" in str(problem.folder) else scene(1000, 36, 48)
    picture = rows(problem, "test")[0][0]
    assert picture.dtype == torch.uint8
    quarters = [np.s_[:2, :2], np.s_[:2, -2:], np.s_[-2:, :2], np.s_[-2:, -2:]]
    found, expected = (coarse(pixels) for pixels in (picture.permute(1, 2, 0).numpy(), source["images"]))
    for corner in quarters:
        assert found[corner] == pytest.approx(expected[corner], abs=8)


def coarse(pixels: Any) -> Any:
    """Means over 4 by 4 blocks."""
    height, width = (side // 4 for side in pixels.shape[:2])
    return pixels.reshape(4, height, 4, width, 3).mean(axis=(1, 3))


def test_folders_of_npy_files_keep_their_targets(npy: Path) -> None:
    _, depths, normals, labels = rows(NYUv2(str(npy), **SMALL), "test")
    for number in range(4):
        example = scene(1000 + number, 36, 48)
        assert np.array_equal(depths[number].numpy(), nearest(example["depths"], 8))
        assert np.array_equal(labels[number].numpy(), nearest(example["labels"].astype(int) % 14 - 1, 8))
    assert torch.equal(normals, torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(4, 3, 8, 8))
    assert labels.min() == -1
    assert [len(rows(NYUv2(str(npy), **SMALL), split)[0]) for split in ("train", "val", "test")] == [11, 1, 4]


def test_the_environment_variable_names_the_folder(npy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(npy))
    assert NYUv2(**SMALL).data_hash() == NYUv2(str(npy), **SMALL).data_hash()


def test_without_the_official_split_a_random_one_takes_its_place(tmp_path: Path) -> None:
    write_labeled(tmp_path, count=40)
    problem = NYUv2(str(tmp_path), **SMALL)
    for again in (problem, problem, NYUv2(str(tmp_path), **SMALL)):  # at first from the files, then from the cache
        with pytest.warns(
            UserWarning, match=rf"{tmp_path} has no {SPLITS}, which names the official test pictures; a "
        ):
            again.prepare()
    sizes = [len(rows(problem, split)[0]) for split in ("train", "val", "test")]
    assert sizes == [20, 2, 18]
    assert sizes[2] == round(40 * (1 - TRAIN_IMAGES / IMAGES))
    other = NYUv2(str(tmp_path), split_seed=1, **SMALL)
    with pytest.warns(UserWarning, match="official test pictures"):
        other.prepare()
    assert not torch.equal(rows(problem, "test")[1], rows(other, "test")[1])


@pytest.mark.filterwarnings("error")
def test_the_official_split_needs_no_warning(problem: NYUv2) -> None:
    problem.prepare()


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("empty", [True, False])
def test_a_part_without_pictures_is_named(tmp_path: Path, part: str, empty: bool) -> None:
    write_npy(tmp_path, train=4, val=2)
    pictures = tmp_path / part / "image"
    if empty or part == "train":  # without train/image the layout is another
        for path in pictures.iterdir():
            path.unlink()
    else:
        shutil.rmtree(pictures.parent)
    with pytest.raises(FileNotFoundError, match=rf"^no 0\.npy, 1\.npy, \.\.\. in {pictures}; train and val .*$"):
        NYUv2(str(tmp_path), **SMALL).prepare()


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.3, 0, -1), (0, -1, -0.4), (-0.5, 0.6, -1)])
def test_normals_of_planes_are_exact(normal: tuple[float, float, float]) -> None:
    unit = np.array(normal) / np.linalg.norm(normal)
    height, width = 48, 64
    v, u = np.mgrid[:height, :width]
    scale = width / WIDTH
    rays = np.stack([(u / scale - 325.582449) / FX, (v / (height / HEIGHT) - 253.736166) / FY, np.ones(u.shape)], -1)
    depths = -2.5 / (rays @ unit)
    depths[depths < 0] = 0  # behind the camera
    found = normals_from_depths(depths.astype(np.float32))
    known = found.any(-1)
    assert known.mean() > 0.3
    assert found[known] == pytest.approx(np.broadcast_to(unit, found[known].shape), abs=1e-3)
    assert (found[known] * rays[known]).sum(-1).max() < 0  # towards the camera


def test_normals_need_all_depths_around_them() -> None:
    depths = np.full((30, 40), 2.0, dtype=np.float32)
    depths[15, 20] = 0
    known = normals_from_depths(depths).any(-1)
    expected = np.zeros((30, 40), dtype=bool)
    r = PLANE_RADIUS
    expected[r:-r, r:-r] = True
    expected[15 - r : 16 + r, 20 - r : 21 + r] = False
    assert np.array_equal(known, expected)


def test_what_is_unknown_in_npy_files_is_no_target(tmp_path: Path) -> None:
    write_npy(tmp_path, height=8, width=8)
    path = tmp_path / "val"
    depths, normals = np.load(path / "depth/0.npy"), np.load(path / "normal/0.npy")
    depths[0, 0], depths[0, 1], normals[1, 1] = np.nan, -1.0, np.nan
    np.save(path / "depth/0.npy", depths)
    np.save(path / "normal/0.npy", normals)
    problem = NYUv2(str(tmp_path), **SMALL)
    _, found, directions, _ = rows(problem, "test")
    assert found[0].eq(0).nonzero().tolist() == [[0, 0], [0, 1]]
    assert (~directions[0].any(0)).nonzero().tolist() == [[1, 1]]
    losses = problem.losses(problem.build_model(0), next(iter(problem.loader("test", 0))))
    assert all(loss.isfinite() for loss in losses.values())


def outputs(problem: NYUv2, model: torch.nn.Module, split: Split) -> dict[str, Any]:
    with torch.no_grad():
        found = model(rows(problem, split)[0].float() / 127.5 - 1)
    return {task: output.double().numpy() for task, output in found.items()}


def test_losses_are_means_over_known_pixels(problem: NYUv2) -> None:
    model = problem.build_model(0).eval()
    batch = tuple(rows(problem, "test"))
    _, depths, normals, labels = (tensor.double().numpy() for tensor in batch)
    found = outputs(problem, model, "test")
    losses = {task: loss.item() for task, loss in problem.losses(model, batch).items()}
    errors = (found["depth"][:, 0] - depths)[depths > 0]
    assert losses["depth"] == pytest.approx((errors**2).mean(), rel=1e-4)
    directions = found["normals"] / np.linalg.norm(found["normals"], axis=1, keepdims=True)
    cosines = (directions * normals).sum(1)[normals.any(1)]
    assert losses["normals"] == pytest.approx((1 - cosines).mean(), rel=1e-4)
    logits = np.moveaxis(found["segmentation"], 1, -1)[labels >= 0]
    own = logits[np.arange(len(logits)), labels[labels >= 0].astype(int)]
    assert losses["segmentation"] == pytest.approx((np.log(np.exp(logits).sum(-1)) - own).mean(), rel=1e-4)


def test_metrics_are_of_the_whole_split(labeled: Path) -> None:
    problem = NYUv2(str(labeled), **SMALL)
    model = problem.build_model(0).eval()
    _, depths, normals, labels = (tensor.double().numpy() for tensor in rows(problem, "test"))
    assert len(depths) > EVALUATION_IMAGES  # more than one chunk
    found = outputs(problem, model, "test")
    with torch.no_grad():
        measured = problem.evaluate(model, "test")
    errors = (found["depth"][:, 0] - depths)[depths > 0]
    assert measured["depth"] == pytest.approx((errors**2).mean() ** 0.5, rel=1e-4)
    directions = found["normals"] / np.linalg.norm(found["normals"], axis=1, keepdims=True)
    angles = np.degrees(np.arccos((directions * normals).sum(1).clip(-1, 1)))[normals.any(1)]
    assert measured["normals"] == pytest.approx(angles.mean(), rel=1e-3)
    classes, known = found["segmentation"].argmax(1), labels >= 0
    pairs = [((classes == k) & known, (labels == k) & known) for k in range(13)]
    ious = [(a & b).sum() / (a | b).sum() for a, b in pairs if (a | b).any()]
    assert measured["segmentation"] == pytest.approx(np.mean(ious), rel=1e-4)


@pytest.mark.parametrize("architecture", ["segnet", "fcn"])
@pytest.mark.parametrize("stride", [1, 4])
def test_gradnorm_trains_both_networks_in_one_pass(labeled: Path, architecture: Any, stride: int) -> None:
    problem = NYUv2(str(labeled), architecture=architecture, stride=stride, **SMALL, learning_rate=1e-2)
    model = problem.build_model(0)
    optimizer = problem.build_optimizer(model)
    balancer = GradNorm.robust([task.name for task in problem.tasks], problem.shared_layer(model))
    batch = next(iter(problem.loader("train", 0)))
    first = problem.losses(model, batch)
    for _ in range(18):
        balancer.backward(problem.losses(model, batch))
        optimizer.step()
        optimizer.zero_grad()
    assert balancer.path is not None
    assert balancer.path.name == "one pass"
    last = problem.losses(model, batch)
    assert all(last[task] < 0.9 * first[task] for task in first)


def test_the_learning_rate_falls_after_every_so_many_steps_also_when_resumed() -> None:
    problem = NYUv2(**SMALL, learning_rate=1.0, decay_every=3)
    model = torch.nn.Linear(1, 1)

    def step(optimizer: torch.optim.Optimizer) -> float:
        """A step, and the rate it was made with."""
        rate = optimizer.param_groups[0]["lr"]
        optimizer.zero_grad()
        model(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        return float(rate)

    optimizer = problem.build_optimizer(model)
    assert [step(optimizer) for _ in range(5)] == pytest.approx([1, 1, 1, 0.2, 0.2])
    resumed = problem.build_optimizer(model)
    resumed.load_state_dict(optimizer.state_dict())
    assert [step(resumed) for _ in range(5)] == pytest.approx([0.2, 0.04, 0.04, 0.04, 0.008])


def test_the_hash_names_the_files_and_what_is_made_of_them(tmp_path: Path) -> None:
    write_labeled(tmp_path, split=SPLIT)
    before = NYUv2(str(tmp_path), **SMALL).data_hash()
    others = [NYUv2(str(tmp_path), **{**SMALL, **change}) for change in ({"image_size": 64}, {"stride": 2})]
    others.append(NYUv2(str(tmp_path), **SMALL, split_seed=1))
    hashes = {before, *(other.data_hash() for other in others)}
    assert len(hashes) == 4
    write_labeled(tmp_path, split=SPLIT[::-1])
    assert NYUv2(str(tmp_path), **SMALL).data_hash() not in hashes
    write_labeled(tmp_path, count=21, split=SPLIT)
    assert NYUv2(str(tmp_path), **SMALL).data_hash() not in hashes


@pytest.mark.parametrize("name", [LABELED, SPLITS, TO_40, TO_13])
@pytest.mark.parametrize("place", [0, -1])
def test_the_hash_changes_with_a_byte_at_either_end_of_the_files(tmp_path: Path, name: str, place: int) -> None:
    for file in (LABELED, SPLITS, TO_40, TO_13):
        (tmp_path / file).write_bytes(bytes(3_000_000))
    before = NYUv2(str(tmp_path)).data_hash()
    content = bytearray((tmp_path / name).read_bytes())
    content[place] = 1
    (tmp_path / name).write_bytes(content)
    assert NYUv2(str(tmp_path)).data_hash() != before


def test_the_hash_changes_with_the_size_of_any_npy_file_and_the_content_of_some(tmp_path: Path) -> None:
    write_npy(tmp_path, train=40, height=4, width=4)
    hashes = [NYUv2(str(tmp_path)).data_hash()]
    last = tmp_path / "train/depth/39.npy"
    np.save(last, np.load(last) + 1)
    hashes.append(NYUv2(str(tmp_path)).data_hash())
    for file in ("train/normal/1.npy", "train/image/38.npy", "val/label/1.npy"):
        np.save(tmp_path / file, np.zeros(1000))
        hashes.append(NYUv2(str(tmp_path)).data_hash())
    (tmp_path / "train/label/38.npy").unlink()
    hashes.append(NYUv2(str(tmp_path)).data_hash())
    assert len(set(hashes)) == 6


def test_a_missing_folder_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(
        FileNotFoundError, match=rf"^NYU Depth V2 comes in no package: set .*folder.* {VARIABLE}, .*$"
    ):
        NYUv2().prepare()
    with pytest.raises(FileNotFoundError, match=rf"^no NYU Depth V2 in {tmp_path}: neither {LABELED} nor .*$"):
        NYUv2(str(tmp_path)).data_hash()


@pytest.mark.parametrize("missing", [TO_40, TO_13])
def test_a_missing_class_mapping_is_named(tmp_path: Path, missing: str) -> None:
    write_labeled(tmp_path, split=SPLIT)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no file {tmp_path}/{missing}; .*{TO_40}.*{TO_13}"):
        NYUv2(str(tmp_path), **SMALL).prepare()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            TO_13,
            {"classMapping13": {"labels13": np.ones((1, 39))}},
            "class13Mapping.mat: expected 40 whole numbers from 0 to 13, got 39 numbers",
        ),
        (
            TO_13,
            {"classMapping13": {"labels13": np.full((1, 40), 14)}},
            "class13Mapping.mat: expected 40 whole numbers from 0 to 13, got 14",
        ),
        (TO_40, {"mapClass": np.full((1, 894), 41)}, "mat: expected 894 whole numbers from 0 to 40, got 41"),
        (TO_40, {"mapClass": np.full((1, 894), 0.5)}, "mat: expected 894 whole numbers from 0 to 40, got 0.5"),
        (TO_40, {"mapClass": np.ones((1, 5))}, "mat: expected 894 whole numbers from 0 to 40, got 5 numbers"),
        (TO_40, {"another": np.ones((1, 894))}, "classMapping40.mat has no variable mapClass"),
        (SPLITS, {"trainNdxs": np.ones((3, 1))}, "splits.mat has no variable testNdxs"),
    ],
)
def test_an_unexpected_file_is_refused(tmp_path: Path, name: str, content: dict[str, Any], message: str) -> None:
    write_labeled(tmp_path, split=SPLIT)
    savemat(tmp_path / name, content)
    with pytest.raises(ProblemError, match=message):
        NYUv2(str(tmp_path), **SMALL).prepare()


@pytest.mark.parametrize(
    ("train", "test", "found"),
    [
        (np.arange(2, 22), np.ones(1), "21"),
        (np.arange(0, 10), np.arange(10, 20), "0"),
        (np.arange(1, 11), np.array([11, 12.5]), "12.5"),
        (np.arange(1, 11), np.array([11, np.nan]), "nan"),
        (np.arange(1, 11), np.array(["11", "12"]), "'11'"),
        (np.array([1, 2, 3, 2]), np.arange(11, 21), "2 more than once"),
        (np.arange(1, 12), np.arange(11, 21), "11 more than once"),
    ],
)
def test_a_split_of_other_numbers_is_refused(tmp_path: Path, train: Any, test: Any, found: str) -> None:
    write_labeled(tmp_path, split=SPLIT)
    savemat(tmp_path / SPLITS, {"trainNdxs": train, "testNdxs": test})
    with pytest.raises(ProblemError) as caught:
        NYUv2(str(tmp_path), **SMALL).prepare()
    path = tmp_path / SPLITS
    assert str(caught.value) == f"data: {path}: expected the numbers 1 to 20, each once, got {found}"


def test_a_split_of_whole_numbers_in_floating_point_is_read(tmp_path: Path, labeled: Path) -> None:
    write_labeled(tmp_path, split=SPLIT)
    train, test = (np.array(part, dtype=np.float64) for part in SPLIT)
    savemat(tmp_path / SPLITS, {"trainNdxs": train, "testNdxs": test})
    expected = rows(NYUv2(str(labeled), **SMALL), "test")[1]
    assert torch.equal(rows(NYUv2(str(tmp_path), **SMALL), "test")[1], expected)


@pytest.mark.parametrize("name", [LABELED, SPLITS, TO_40])
@pytest.mark.parametrize("content", [b"", b"no Matlab file" * 100])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write_labeled(tmp_path, split=SPLIT)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ProblemError, match=name):
        NYUv2(str(tmp_path), **SMALL).prepare()


def test_a_large_file_that_lacks_a_variable_or_has_an_unknown_label_is_refused(tmp_path: Path) -> None:
    write_labeled(tmp_path, split=SPLIT)
    with h5py.File(tmp_path / LABELED, "r+") as file:
        file["labels"][0] = 895
    with pytest.raises(ProblemError, match="expected 0 to 894, got the label 895"):
        NYUv2(str(tmp_path), **SMALL).prepare()
    with h5py.File(tmp_path / LABELED, "r+") as file:
        del file["depths"]
    with pytest.raises(ProblemError, match="has no depths of picture"):
        NYUv2(str(tmp_path), **SMALL).prepare()
    with h5py.File(tmp_path / LABELED, "r+") as file:
        del file["images"]
    with pytest.raises(ProblemError, match=f"{LABELED}: found no images"):
        NYUv2(str(tmp_path), **SMALL).prepare()


@pytest.mark.parametrize(
    ("kind", "array", "message"),
    [
        ("image", np.zeros((36, 48)), r"image/1.npy: expected \(H, W, 3\), got the shape \(36, 48\)"),
        ("depth", np.zeros((36, 48, 2)), r"depth/1.npy: expected \(H, W\), got the shape \(36, 48, 2\)"),
        ("depth", np.zeros((36, 47, 1)), "train/1.npy of its four kinds differ in size"),
        ("depth", np.zeros((36, 48), dtype="U1"), "depth/1.npy: expected real numbers, got values of type <U1"),
        ("label", np.full((36, 48), 13), "label/1.npy: expected the classes 0 to 12, and -1 for none, got 13"),
        ("label", np.full((36, 48), 0.5), "label/1.npy: expected the classes 0 to 12, and -1 for none, got 0.5"),
        ("image", np.full((36, 48, 3), 255.0), "image/1.npy: expected 0 to 1, got values up to 255"),
        ("image", np.full((36, 48, 3), -1.0), "image/1.npy: expected 0 to 1, got values down to -1"),
        ("image", np.full((36, 48, 3), np.nan), "image/1.npy: expected 0 to 1, got values up to nan"),
        ("image", np.full((36, 48, 3), np.inf), "image/1.npy: expected 0 to 1, got values up to inf"),
        (
            "image",
            np.zeros((36, 48, 3), dtype=np.uint8),
            "image/1.npy: expected floating-point numbers, got values of type uint8",
        ),
        ("image", np.zeros((0, 48, 3)), r"image/1.npy: expected \(H, W, 3\), got the shape \(0, 48, 3\)"),
    ],
)
def test_an_unexpected_npy_file_is_refused(tmp_path: Path, kind: str, array: Any, message: str) -> None:
    write_npy(tmp_path, train=2, val=1)
    np.save(tmp_path / "train" / kind / "1.npy", array)
    with pytest.raises(ProblemError, match=message):
        NYUv2(str(tmp_path), **{**SMALL, "batch_size": 1}).prepare()


def test_a_pixel_may_be_rounded_past_its_range(tmp_path: Path) -> None:
    write_npy(tmp_path, train=2, val=1)
    image = np.zeros((36, 48, 3), dtype=np.float32)
    image[:18], image[18:] = 1.0000001, -1e-7
    np.save(tmp_path / "val/image/0.npy", image)
    pixels = rows(NYUv2(str(tmp_path), **{**SMALL, "batch_size": 1}), "test")[0]
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_a_missing_npy_file_is_named(tmp_path: Path) -> None:
    write_npy(tmp_path, train=2, val=1)
    (tmp_path / "train/normal/1.npy").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"no file .*/train/normal/1\.npy; each of image, depth, normal, label"
    ):
        NYUv2(str(tmp_path), **SMALL).prepare()


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    write_npy(tmp_path, train=2, val=1)
    mark = tmp_path / "exploded"
    array = np.empty(1, dtype=object)
    array[0] = Bomb(mark)
    np.save(tmp_path / "train/depth/1.npy", array, allow_pickle=True)
    pickle.loads(pickle.dumps(array))
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ProblemError, match=r"depth/1\.npy cannot be read"):
        NYUv2(str(tmp_path), **SMALL).prepare()
    assert not mark.exists()


def test_a_batch_larger_than_the_training_split_is_refused(npy: Path) -> None:
    with pytest.raises(ProblemError, match="batch_size: expected at most the 11 rows of the training split, got 12"):
        NYUv2(str(npy), **{**SMALL, "batch_size": 12}).prepare()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"folder": 3}, "folder: expected an absolute path, got 3"),
        ({"folder": "data"}, "folder: expected an absolute path, got 'data'"),
        ({"architecture": "unet"}, "architecture: expected .*, got 'unet'"),
        ({"stride": 3}, "stride: expected 1, 2, 4, got 3"),
        ({"stride": 4.0}, "stride: expected an integer >= 1, got 4.0"),
        ({"stride": True}, "stride: expected an integer >= 1, got True"),
        ({"image_size": 31}, "image_size: expected an integer >= 32, got 31"),
        ({"image_size": 33}, "image_size: expected multiples of stride, which is 4, got 33"),
        (
            {"architecture": "fcn", "image_size": 32, "batch_size": 1},
            "batch_size: expected an integer >= 2 where architecture is 'fcn' and image_size is 32, since ",
        ),
        ({"decay_every": 0}, "decay_every: expected .*, got 0"),
        ({"split_seed": -1}, "split_seed: expected .*, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=f"^{message}"):
        NYUv2(**arguments)


@pytest.mark.parametrize(
    ("architecture", "image_size", "batch_size"), [("fcn", 36, 1), ("fcn", 32, 2), ("segnet", 32, 1)]
)
def test_the_smallest_batches_that_are_allowed_train(architecture: Any, image_size: int, batch_size: int) -> None:
    problem = NYUv2(architecture=architecture, width=0.125, image_size=image_size, batch_size=batch_size)
    assert problem.build_model(0)(torch.randn(batch_size, 3, image_size, image_size))["depth"].isfinite().all()


def test_a_diverged_network_has_no_metrics(npy: Path) -> None:
    problem = NYUv2(str(npy), **SMALL)
    model = problem.build_model(0).eval()
    with torch.no_grad():
        model.last[0].weight.fill_(math.nan)
        measured = problem.evaluate(model, "val")
    assert all(math.isnan(value) for value in measured.values())
