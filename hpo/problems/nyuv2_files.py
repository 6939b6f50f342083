"""The user's files of NYU Depth V2, in either layout, and their preparation for the problem `nyuv2`."""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.arguments import shown
from hpo.problems.base import Split
from hpo.problems.data_cache import Arrays, short_hash
from hpo.problems.dense_metrics import IGNORED

VARIABLE = "GRADSWEEP_NYUV2"
INSTALL = "pip install 'gradsweep[nyuv2]' (or: pip install h5py)"
LABELED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
TO_40, TO_13 = "classMapping40.mat", "class13Mapping.mat"
LABELS, CLASSES_40, CLASSES = 894, 40, 13  # the first file maps labels to 40 classes, the second these to 13
TRAIN_IMAGES, IMAGES = 795, 1449  # of the official split
VAL_SHARE = 0.1  # of the official training images
PREPARATION_VERSION = 2  # raise it with every change of what `prepare_arrays` returns

# The colour camera of the data set's toolbox, for pictures of 640 by 480, to which the labeled depths are aligned.
WIDTH, HEIGHT = 640, 480
FX, FY, CX, CY = 518.857901, 519.469611, 325.582449, 253.736166
PLANE_RADIUS = 4  # pixels: normals are of planes through 9 by 9

# Only samples of the files are hashed: they are gigabytes, and every process needs the hash.
SAMPLED_BYTES, SAMPLED_PLACES = 1 << 16, 32  # of the large file
SAMPLED_FILES = 16  # .npy files of each kind in train and in val
ROUNDING = 1e-3  # by which a pixel may lie outside 0 to 1


class Example(NamedTuple):
    """A picture and its targets, at the resolution of the source or of the problem.

    Attributes:
        images: uint8, (H, W, 3) at the source, (3, S, S) prepared.
        depths: float32 in m, (H, W), 0 where unknown.
        normals: float32, (H, W, 3) or (3, s, s), unit vectors, 0 where unknown.
        labels: int8, (H, W), 0 to 12, `IGNORED` where there is none.
    """

    images: NDArray[np.uint8]
    depths: NDArray[np.float32]
    normals: NDArray[np.float32]
    labels: NDArray[np.int8]


class Source(ABC):
    """The user's files in one of the layouts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a digest of the files' sizes and of samples of their content."""

    @abstractmethod
    def split(self) -> tuple[list[str], list[str] | None]:
        """Return the names of the official training and test examples; all and None if the files do not say.

        Raises:
            FileNotFoundError: a file is missing.
            ProblemError: a file's content is not as expected.
        """

    @abstractmethod
    def read(self, names: Sequence[str]) -> Iterable[Example]:
        """Yield these examples one after the other.

        Raises:
            ProblemError: a file's content is not as expected.
        """


def find_source(folder: str | None) -> Source:
    """Find the user's files, in either layout.

    Args:
        folder: where they are, else ``$GRADSWEEP_NYUV2`` is.

    Raises:
        FileNotFoundError: no folder, or none with a layout that is known.
    """
    chosen = folder or os.environ.get(VARIABLE)
    if not chosen:
        raise FileNotFoundError(
            "NYU Depth V2 comes in no package: set the problem's argument folder, or the environment variable "
            f"{VARIABLE}, to the folder that holds {LABELED}, or train/ and val/ of .npy files"
        )
    path = Path(chosen).expanduser()
    if (path / LABELED).is_file():
        return LabeledMat(path)
    if (path / "train" / "image").is_dir():
        return NpyFolders(path)
    raise FileNotFoundError(
        f"no NYU Depth V2 in {path}: neither {LABELED} nor train/image/0.npy; correct the problem's argument folder "
        f"or {VARIABLE}"
    )


class LabeledMat(Source):
    """The data set's own file, and the small ones with the split and the classes beside it."""

    def fingerprint(self) -> str:
        """Digest the size of the large file and samples at evenly spaced places, and all of the small files."""
        parts: list[object] = []
        large = self.folder / LABELED
        with large.open("rb") as file:
            size = large.stat().st_size
            for place in _spaced(max(0, size - SAMPLED_BYTES), SAMPLED_PLACES):
                file.seek(place)
                parts.append((size, place, hashlib.sha256(file.read(SAMPLED_BYTES)).hexdigest()))
        for name in (SPLITS, TO_40, TO_13):
            path = self.folder / name
            parts.append((name, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None))
        return short_hash(*parts)

    def split(self) -> tuple[list[str], list[str] | None]:
        """Read the split from ``splits.mat``, whose numbers begin at 1."""
        with self._open() as file:
            if "images" not in file:
                raise ProblemError(f"data: {self.folder / LABELED}: found no images")
            count = len(file["images"])
        path = self.folder / SPLITS
        if not path.is_file():
            return [str(number) for number in range(count)], None
        train, test = (_read_mat(path, key).ravel().tolist() for key in ("trainNdxs", "testNdxs"))
        both = [*train, *test]
        found = [shown(value) for value in _others(both, range(1, count + 1))]
        found = found or [f"{number:g} more than once" for number, times in Counter(both).items() if times > 1]
        if found:
            raise ProblemError(complaint(f"data: {path}", f"the numbers 1 to {count}, each once", f"{found[0]}"))
        return [str(int(number) - 1) for number in train], [str(int(number) - 1) for number in test]

    def read(self, names: Sequence[str]) -> Iterable[Example]:
        """Read examples; Matlab's arrays have their axes reversed."""
        classes = self.classes()
        with self._open() as file:
            for name in names:
                images, depths, labels = (self._array(file, key, int(name)) for key in ("images", "depths", "labels"))
                if labels.max() > LABELS:
                    raise ProblemError(complaint(f"data: {LABELED}", f"0 to {LABELS}", f"the label {labels.max()}"))
                known = np.where(np.isfinite(depths) & (depths > 0), depths, 0).astype(np.float32)
                yield Example(images, known, normals_from_depths(known), classes[labels])

    def _open(self) -> Any:
        try:
            import h5py  # type: ignore[import-untyped, unused-ignore]
        except ModuleNotFoundError as error:
            raise ProblemError(f"data: {LABELED} is HDF5; to read it, run: {INSTALL}") from error
        try:
            return h5py.File(self.folder / LABELED)
        except OSError as error:
            raise ProblemError(f"data: {self.folder / LABELED} cannot be read ({error})") from error

    def _array(self, file: Any, key: str, number: int) -> NDArray[Any]:
        try:
            return np.asarray(file[key][number].T)
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise ProblemError(f"data: {self.folder / LABELED} has no {key} of picture {number} ({error})") from error

    def classes(self) -> NDArray[np.int8]:
        """Return for each label of the file, 0 (none) included, its class from 0 to 12, or `IGNORED`.

        Raises:
            FileNotFoundError: a file with a mapping is missing.
            ProblemError: its content is not as expected.
        """
        for name in (TO_40, TO_13):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(
                    f"no file {self.folder / name}; labels become {CLASSES} classes by {TO_40} (mapClass: {LABELS} "
                    f"labels to {CLASSES_40} classes) and {TO_13} (classMapping13: these to {CLASSES})"
                )
        to_40 = _read_mat(self.folder / TO_40, "mapClass").ravel()
        to_13 = np.ravel(_read_mat(self.folder / TO_13, "classMapping13").ravel()[0][0])
        for name, found, count, most in ((TO_40, to_40, LABELS, CLASSES_40), (TO_13, to_13, CLASSES_40, CLASSES)):
            wrong = _others(found.tolist(), range(most + 1))
            if len(found) != count or wrong:
                what = shown(wrong[0]) if wrong else f"{len(found)} numbers"
                raise ProblemError(
                    complaint(f"data: {self.folder / name}", f"{count} whole numbers from 0 to {most}", what)
                )
        both = np.concatenate([[0], to_13])[np.concatenate([[0], to_40]).astype(int)]
        return np.where(both > 0, both - 1, IGNORED).astype(np.int8)


def _spaced(last: int, count: int) -> list[int]:
    """Evenly spaced whole numbers from 0 to ``last``, both included: ``count``, or all where there are fewer.

    >>> _spaced(10, 3), _spaced(1, 3)
    ([0, 5, 10], [0, 1])
    """
    return sorted({last * step // (count - 1) for step in range(count)})


def _others(values: Iterable[Any], allowed: Collection[int]) -> list[Any]:
    """Return the values that are not among these numbers; 3.0 counts as 3."""
    numbers = set(allowed)
    return [value for value in values if not isinstance(value, int | float) or value not in numbers]


def _read_mat(path: Path, key: str) -> NDArray[Any]:
    """A variable of a Matlab file of version 5."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return np.asarray(loadmat(path)[key])
    except (KeyError, ValueError, NotImplementedError, MatReadError) as error:
        raise ProblemError(f"data: {path} has no variable {key} that scipy.io.loadmat reads ({error})") from error


def normals_from_depths(depths: NDArray[np.float32]) -> NDArray[np.float32]:
    """Surface normals of a depth map, in the camera's frame (x right, y down, z forward), towards the camera.

    The inverse depth of a plane is affine in pixel coordinates: n (x, y, z) = d with x = z (u - cx) / fx and
    y = z (v - cy) / fy gives 1 / z = (n1 (u - cx) / fx + n2 (v - cy) / fy + n3) / d. So a least-squares fit of the
    inverse depth over 9 by 9 pixels gives n. At the edges of objects it is a compromise of both sides.

    Args:
        depths: (H, W) in m, 0 where unknown.

    Returns:
        (H, W, 3), unit vectors, 0 where one of the 9 by 9 pixels is unknown or outside.
    """
    from scipy.ndimage import correlate1d

    height, width = depths.shape
    fx, fy, cx, cy = FX * width / WIDTH, FY * height / HEIGHT, CX * width / WIDTH, CY * height / HEIGHT
    offsets = np.arange(-PLANE_RADIUS, PLANE_RADIUS + 1.0)
    slope, mean = offsets / (offsets**2).sum(), np.full(len(offsets), 1 / len(offsets))
    inverse = np.divide(1.0, depths, out=np.full(depths.shape, np.nan), where=depths > 0)

    def fitted(vertical: NDArray[np.float64], horizontal: NDArray[np.float64]) -> NDArray[np.float64]:
        down = correlate1d(inverse, vertical, axis=0, mode="constant", cval=np.nan)
        return np.asarray(correlate1d(down, horizontal, axis=1, mode="constant", cval=np.nan))

    by_u, by_v, center = fitted(mean, slope), fitted(slope, mean), fitted(mean, mean)
    v, u = np.mgrid[:height, :width]
    away = np.stack([fx * by_u, fy * by_v, center - (u - cx) * by_u - (v - cy) * by_v], axis=-1)
    unit = -away / np.linalg.norm(away, axis=-1, keepdims=True)
    return np.asarray(np.nan_to_num(unit), dtype=np.float32)


class NpyFolders(Source):
    """Folders of .npy files, one file for each picture, as preprocessed for the paper on attention."""

    KINDS = ("image", "depth", "normal", "label")

    def fingerprint(self) -> str:
        """Digest name and size of each file, and the content of evenly spaced ones, per kind, in train and in val."""
        parts: list[object] = []
        for part in ("train", "val"):
            for kind in self.KINDS:
                paths = self._files(part, kind)
                parts.append((part, kind, [(path.name, path.stat().st_size) for path in paths]))
                sampled = [paths[place] for place in _spaced(len(paths) - 1, SAMPLED_FILES)] if paths else []
                parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in sampled]
        return short_hash(*parts)

    def split(self) -> tuple[list[str], list[str] | None]:
        """Return the names in the two folders; ``val`` is the official test split."""
        train, test = (
            [f"{part}/{number}" for number in range(len(self._files(part, "image")))] for part in ("train", "val")
        )
        for part, names in (("train", train), ("val", test)):
            if not names:
                raise FileNotFoundError(
                    f"no 0.npy, 1.npy, ... in {self.folder / part / 'image'}; train and val hold the pictures of the "
                    "official training and test split"
                )
        return train, test

    def read(self, names: Sequence[str]) -> Iterable[Example]:
        """Read examples; pictures from 0 to 1 become bytes, and values that are not finite are unknown."""
        for name in names:
            part, number = name.split("/")
            image, depth, normal, label = (self._load(part, kind, number) for kind in self.KINDS)
            if len({array.shape[:2] for array in (image, depth, normal, label)}) > 1:
                raise ProblemError(f"data: {self.folder}: the files {name}.npy of its four kinds differ in size")
            known = np.isfinite(depth) & (depth > 0)
            pointing = np.isfinite(normal).all(-1, keepdims=True)
            yield Example(
                (image.clip(0, 1) * 255).round().astype(np.uint8),
                np.where(known, depth, 0).astype(np.float32),
                np.where(pointing, normal, 0).astype(np.float32),
                label.astype(np.int8),
            )

    def _files(self, part: str, kind: str) -> list[Path]:
        """The numbered files of a folder, in the order of their numbers."""
        paths = [path for path in (self.folder / part / kind).glob("*.npy") if re.fullmatch(r"\d+", path.stem)]
        return sorted(paths, key=lambda path: (int(path.stem), path.name))

    def _load(self, part: str, kind: str, number: str) -> NDArray[Any]:
        path = self.folder / part / kind / f"{number}.npy"
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}; each of {', '.join(self.KINDS)} has 0.npy, 1.npy, ...")
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise ProblemError(f"data: {path} cannot be read ({error})") from error
        if kind == "depth" and array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        channels = {"image": (3,), "normal": (3,), "depth": (), "label": ()}[kind]
        if array.ndim != 2 + len(channels) or array.shape[2:] != channels or not array.size:
            allowed = "(H, W, 3)" if channels else "(H, W)"
            raise ProblemError(complaint(f"data: {path}", allowed, f"the shape {array.shape}"))
        kinds, numbers = ("f", "floating-point") if kind == "image" else ("biuf", "real")
        if array.dtype.kind not in kinds:
            raise ProblemError(complaint(f"data: {path}", f"{numbers} numbers", f"values of type {array.dtype}"))
        if kind == "image":
            _check_pixels(path, array)
        if kind == "label":
            _check_labels(path, array)
        return np.asarray(array)


def _check_pixels(path: Path, array: NDArray[Any]) -> None:
    """Check that pixels are from 0 to 1; values from 0 to 255 would nearly all become white."""
    least, most = array.min(), array.max()
    if not -ROUNDING <= least <= most <= 1 + ROUNDING:  # NaN is in no order
        found = f"down to {least:g}" if least < -ROUNDING else f"up to {most:g}"
        raise ProblemError(complaint(f"data: {path}", "0 to 1", f"values {found}"))


def _check_labels(path: Path, array: NDArray[Any]) -> None:
    wrong = array[~np.isin(array, range(IGNORED, CLASSES))]
    if wrong.size:
        raise ProblemError(
            complaint(f"data: {path}", f"the classes 0 to {CLASSES - 1}, and {IGNORED} for none", f"{wrong[0]:g}")
        )


def choose(source: Source, seed: int) -> tuple[dict[Split, list[str]], bool]:
    """Choose the examples of each split; return their names, and whether test is the official split.

    A tenth of the official training examples are val. If the official split is unknown, the test split is random and
    as large as the official one.
    """
    random = np.random.default_rng(seed)
    train, test = source.split()
    official = test is not None
    if test is None:
        train, test = _drawn(train, round(len(train) * (1 - TRAIN_IMAGES / IMAGES)), random)
    if len(train) < 2 or not test:
        raise ProblemError(
            complaint(
                f"data: {source.folder}", "at least 2 and 1", f"{len(train)} training and {len(test)} test pictures"
            )
        )
    train, val = _drawn(train, max(1, round(VAL_SHARE * len(train))), random)
    return {"train": train, "val": val, "test": test}, official


def _drawn(names: list[str], count: int, random: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return all but ``count`` of the names, and these, both in their old order."""
    drawn = set(random.permutation(len(names))[:count].tolist())
    kept = [name for place, name in enumerate(names) if place not in drawn]
    return kept, [names[place] for place in sorted(drawn)]


def prepare_arrays(source: Source, size: int, grid: int, seed: int) -> Arrays:
    """Prepare all examples at the problem's resolution.

    Args:
        source: where they come from.
        size: side of the pictures.
        grid: side of the targets.
        seed: of the split.

    Returns:
        ``{split}_{field}`` for each split and each field of `Example`, (N, ...), and ``official``, (1,): if the test
        split is the official one.
    """
    splits, official = choose(source, seed)
    arrays: Arrays = {"official": np.array([official])}
    for split, names in splits.items():
        arrays |= {f"{split}_{name}": array for name, array in _stacked(source, names, size, grid).items()}
    return arrays


def _stacked(source: Source, names: Sequence[str], size: int, grid: int) -> Arrays:
    count = len(names)
    arrays: Arrays = {
        "images": np.empty((count, 3, size, size), np.uint8),
        "depths": np.empty((count, grid, grid), np.float32),
        "normals": np.empty((count, 3, grid, grid), np.float32),
        "labels": np.empty((count, grid, grid), np.int8),
    }
    for row, example in enumerate(source.read(names)):
        for name, value in _resized(example, size, grid)._asdict().items():
            arrays[name][row] = value
    return arrays


def _resized(example: Example, size: int, grid: int) -> Example:
    """The picture as a square of ``size``, the targets nearest to the centres of a grid over it."""
    pixels = torch.from_numpy(np.ascontiguousarray(example.images)).permute(2, 0, 1)[None].float()
    image = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    height, width = example.depths.shape
    rows, columns = (((np.arange(grid) + 0.5) * side / grid).astype(int) for side in (height, width))
    place = np.ix_(rows, columns)
    return Example(
        image[0].round().clamp(0, 255).byte().numpy(),
        example.depths[place],
        np.moveaxis(example.normals[place], -1, 0),
        example.labels[place],
    )
