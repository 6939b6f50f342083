"""Small folders in the two layouts of NYU Depth V2. All in them is made up: no picture of the data set is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from hpo.problems.dense_metrics import IGNORED
from hpo.problems.nyuv2_files import CLASSES, LABELED, SPLITS, TO_13, TO_40

LABELS = 894


def scene(number: int, height: int, width: int) -> dict[str, NDArray[Any]]:
    """A room's picture: bytes (H, W, 3), depths in m, and labels of the large file, 0 to 894.

    The brightness follows the depth and the colour the label, so that a network has something to learn.
    """
    random = np.random.default_rng(number)
    v, u = np.mgrid[:height, :width]
    depths = 2 + 0.02 * number + (v / height + random.uniform(-1, 1) * u / width)
    blocks = random.integers(1, LABELS + 1, (4, 4))
    labels = np.kron(blocks, np.ones((-(-height // 4), -(-width // 4)), dtype=int))[:height, :width]
    labels[:2] = 0
    colours = np.stack([40 * depths, labels / LABELS * 255, 255 - 40 * depths], axis=-1)
    return {
        "images": colours.clip(0, 255).astype(np.uint8),
        "depths": depths.astype(np.float32),
        "labels": labels.astype(np.uint16),
    }


def maps() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The made-up mappings: of labels 1 to 894 to 1 to 40, and of these to 1 to 13."""
    return np.arange(LABELS) % 40 + 1, np.arange(40) % CLASSES + 1


def write_labeled(
    folder: Path, count: int = 20, height: int = 48, width: int = 64, split: tuple[list[int], list[int]] | None = None
) -> Path:
    """The large file and those beside it; numbers in ``split`` begin at 1, without it ``splits.mat`` is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [scene(number, height, width) for number in range(count)]
    with h5py.File(folder / LABELED, "w") as file:
        for key in ("images", "depths", "labels"):
            file[key] = np.stack([example[key].T for example in scenes])  # as Matlab writes it: axes reversed
    to_40, to_13 = maps()
    savemat(folder / TO_40, {"mapClass": to_40[None]})
    savemat(
        folder / TO_13, {"classMapping13": {"labels13": to_13[None], "className": np.array([["bed"]], dtype=object)}}
    )
    if split is not None:
        train, test = (np.array(part, dtype=np.uint16)[:, None] for part in split)
        savemat(folder / SPLITS, {"trainNdxs": train, "testNdxs": test})
    return folder


def write_npy(folder: Path, train: int = 12, val: int = 4, height: int = 36, width: int = 48) -> Path:
    """The folders of .npy files."""
    for part, count in (("train", train), ("val", val)):
        for number in range(count):
            example = scene(number + (1000 if part == "val" else 0), height, width)
            normals = np.zeros((height, width, 3), dtype=np.float32)
            normals[..., 2] = -1
            files = {
                "image": example["images"] / 255.0,
                "depth": example["depths"][..., None],
                "normal": normals,
                "label": example["labels"].astype(np.float64) % (CLASSES + 1) + IGNORED,
            }
            for kind, array in files.items():
                (folder / part / kind).mkdir(parents=True, exist_ok=True)
                np.save(folder / part / kind / f"{number}.npy", array)
    return folder
