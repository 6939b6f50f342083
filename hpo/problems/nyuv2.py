"""NYU Depth V2: depth, surface normals and 13 classes at every pixel of pictures of rooms; the user has the files."""

from __future__ import annotations

import warnings
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_positive, shown
from hpo.problems.base import Task
from hpo.problems.data_cache import Arrays, short_hash
from hpo.problems.dense_networks import SMALLEST_SIDE, Architecture, DenseNetwork, check_stride, dense_network
from hpo.problems.dense_problem import DenseProblem, DenseTargets
from hpo.problems.nyuv2_files import (
    CLASSES,
    PREPARATION_VERSION,
    SPLITS,
    VAL_SHARE,
    Example,
    find_source,
    prepare_arrays,
)
from hpo.problems.optimizers import scheduled_adam

EVALUATION_IMAGES = 8  # in one chunk
DECAY = 0.2  # of the learning rate

OUTPUTS = {"depth": 1, "normals": 3, "segmentation": CLASSES}
TASKS = (
    Task("depth", "RMSE (m)"),
    Task("normals", "mean angular error (degrees)"),
    Task("segmentation", "mean IoU", "maximize"),
)


class NYUv2(DenseProblem):
    """NYU Depth V2: depth, surface normals and 13 classes from one picture of a room, as in the GradNorm paper.

    Section 5 of "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks" (Chen,
    Badrinarayanan, Lee, Rabinovich, ICML 2018, https://arxiv.org/abs/1711.02257), the smaller data set NYUv2+seg:

    | task | loss | metric |
    |---|---|---|
    | depth | squared error, m^2 | root mean squared error, m |
    | normals | 1 - cos | mean angle, degrees |
    | segmentation | cross-entropy | mean IoU over 13 classes, 0 to 1 |

    Losses are means over the pixels that have a target. The defaults are the paper's: pictures of 320x320, outputs of
    80x80, batches of 24, Adam from 2e-5 on, times 0.2 after every 6000 steps, 20,000 steps in all.

    Data: "Indoor Segmentation and Support Inference from RGBD Images" (Silberman, Hoiem, Kohli, Fergus, ECCV 2012),
    795 and 654 pictures. No package carries them: ``folder``, or the environment variable ``GRADSWEEP_NYUV2``, names
    a folder of your own in one of two layouts.

    - ``nyu_depth_v2_labeled.mat``, with ``classMapping40.mat`` and ``class13Mapping.mat`` beside it, and
      ``splits.mat`` for the official split, which is a random one otherwise. Normals are taken from the depths.
    - ``train`` and ``val`` with the folders ``image``, ``label``, ``depth`` and ``normal`` and in each ``0.npy``,
      ``1.npy``, ...: the preprocessed data of "End-to-End Multi-Task Learning with Attention" (Liu, Johns, Davison,
      CVPR 2019).

    The official test pictures are the test split; a tenth of the others, drawn by ``split_seed``, are val. Pictures
    become squares of ``image_size`` (bilinear, antialiased); each output pixel has the target nearest to its centre,
    so that no invalid one is mixed in.

    Batches are of pictures (B, 3, S, S) uint8, and with s = S / stride depths (B, s, s) in m, normals (B, 3, s, s),
    both float32 and 0 where invalid, and labels (B, s, s) int8, -1 where there is none; val and test come in stored
    order.

    Where this deviates from the paper, or the paper does not say: its metric of normals is 1 - abs(cos), and it has
    no validation split. Metrics are taken at the outputs' resolution. Nothing is pretrained and nothing augmented.
    See `dense_network` for the networks.

    Args:
        folder: where the files are, an absolute path; default: ``$GRADSWEEP_NYUV2``.
        architecture: ``"segnet"`` or ``"fcn"``.
        width: scales the channels of the network; 1.0 is the paper's.
        image_size: side of the pictures in pixels, a multiple of ``stride``, at least 32.
        stride: 1, 2 or 4: the outputs' side is ``image_size / stride``.
        split_seed: draws val, and where ``splits.mat`` is missing test too.
        batch_size: pictures in a training batch.
        epochs: passes over the training pictures; 690 are the paper's 20,000 steps.
        learning_rate: of Adam, at the start.
        decay_every: steps after which the learning rate is multiplied by 0.2.

    Raises:
        ProblemError: an argument out of its range.

    >>> [task.name for task in NYUv2().tasks]
    ['depth', 'normals', 'segmentation']
    """

    tasks = TASKS
    parts = Example._fields
    evaluation_batch = EVALUATION_IMAGES
    classes = CLASSES
    depth_metric = "rms"

    def __init__(
        self,
        folder: str | None = None,
        *,
        architecture: Architecture = "segnet",
        width: float = 1.0,
        image_size: int = 320,
        stride: int = 4,
        split_seed: int = 0,
        batch_size: int = 24,
        epochs: int = 690,
        learning_rate: float = 2e-5,
        decay_every: int = 6000,
    ) -> None:
        self.folder = folder if folder is None else _check_folder(folder)
        self.architecture = cast(Architecture, check_choice("architecture", architecture, get_args(Architecture)))
        self.width = check_positive("width", width)
        self.stride = check_stride(stride)
        self.image_size = check_count("image_size", image_size, minimum=SMALLEST_SIDE)
        if image_size % stride:
            raise ProblemError(complaint("image_size", f"multiples of stride, which is {stride}", image_size))
        self.split_seed = check_count("split_seed", split_seed, minimum=0)
        self.batch_size = check_count("batch_size", batch_size)
        if architecture == "fcn" and image_size == SMALLEST_SIDE and batch_size == 1:  # its deepest grid is 1 by 1
            raise ProblemError(
                complaint(
                    "batch_size",
                    f"an integer >= 2 where architecture is 'fcn' and image_size is {SMALLEST_SIDE}, since batch "
                    "normalisation needs more than one value a channel",
                    "1",
                )
            )
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.decay_every = check_count("decay_every", decay_every)

    def prepare(self) -> None:
        """Read the files, make pictures and targets of one size, and keep them in the cache, once on each machine.

        Warns each time where the files do not say which pictures are the official test split.

        Raises:
            FileNotFoundError: no folder, or a file is missing; the message says which.
            ProblemError: a file's content is not as expected, or a batch is larger than the training split.
        """
        arrays = self._arrays()
        check_batch_size(self.batch_size, len(arrays["train_images"]))
        if not arrays["official"].all():
            warnings.warn(
                f"NYU Depth V2: {find_source(self.folder).folder} has no {SPLITS}, which names the official test "
                "pictures; a random test split, fixed by split_seed, takes their place and compares with nobody's",
                stacklevel=2,
            )

    def build_model(self, seed: int) -> DenseNetwork:
        """The paper's network; see `dense_network`."""
        return dense_network(self.architecture, 3, OUTPUTS, self.width, seed, stride=self.stride)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Adam, whose learning rate is multiplied by 0.2 after every ``decay_every`` steps."""
        return scheduled_adam(model, self.learning_rate, lambda taken: DECAY ** (taken // self.decay_every))

    def _outputs(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """For pictures of bytes, which the network sees from -1 to 1."""
        return cast(dict[str, Tensor], model(images.float() / 127.5 - 1))

    def _targets(self, batch: Any) -> DenseTargets:
        _, depths, normals, labels = batch
        return DenseTargets(depths, depths > 0, normals, labels.long())

    def _key(self) -> str:
        """Needs the folder, but reads a part of it alone."""
        return self._kept_key

    @cached_property
    def _kept_key(self) -> str:
        source = find_source(self.folder).fingerprint()
        parts = (PREPARATION_VERSION, source, self.image_size, self.stride, self.split_seed, VAL_SHARE)
        return f"nyuv2-{self.image_size}-{short_hash(*parts)}"

    def _build(self) -> Arrays:
        grid = self.image_size // self.stride
        return prepare_arrays(find_source(self.folder), self.image_size, grid, self.split_seed)


def _check_folder(folder: Any) -> str:
    """An absolute path, since a worker's current folder is not the command's."""
    if not isinstance(folder, str) or not Path(folder).expanduser().is_absolute():
        raise ProblemError(complaint("folder", "an absolute path", shown(folder)))
    return folder
