"""Common base of the built-in dense problems: depth or height, surface normals and a class at every pixel."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal, NamedTuple, cast

from torch import Tensor, nn

from hpo.problems.base import Split, to_device
from hpo.problems.cached_problem import CachedProblem
from hpo.problems.data_cache import ordered_batches, short_hash
from hpo.problems.dense_metrics import (
    AngularError,
    DepthError,
    MeanIoU,
    depth_loss,
    normals_loss,
    segmentation_loss,
)
from hpo.problems.dense_networks import DenseNetwork


class DenseTargets(NamedTuple):
    """The targets of a batch of pictures.

    Attributes:
        depths: (B, H, W), float32.
        known: (B, H, W), true where there is a depth.
        normals: (B, 3, H, W), float32, 0 where there is none.
        labels: (B, H, W), int64.
    """

    depths: Tensor
    known: Tensor
    normals: Tensor
    labels: Tensor


class DenseProblem(CachedProblem):
    """Depth, surface normals and segmentation, in this order, whatever their names.

    Attributes:
        classes: of the segmentation.
        depth_loss: ``"l1"`` or ``"l2"``, see `hpo.problems.dense_metrics.depth_loss`.
        depth_metric: ``"mae"`` or ``"rms"``, see `DepthError`.
    """

    classes: int
    depth_loss: Literal["l1", "l2"] = "l2"
    depth_metric: Literal["mae", "rms"]

    @abstractmethod
    def _outputs(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """The network's outputs by task for pictures as the cache holds them."""

    @abstractmethod
    def _targets(self, batch: Any) -> DenseTargets:
        """The targets of a batch, of which the first part is pictures."""

    def data_hash(self) -> str:
        """Name the pictures and their targets."""
        return short_hash(self._key())  # the tasks are always the same

    def shared_layer(self, model: nn.Module) -> nn.Module:
        """The last convolution that all tasks share."""
        return cast(DenseNetwork, model).shared_layer

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Absolute or squared error, 1 - cos and cross-entropy, each a mean over the pixels that have a target."""
        outputs, targets = self._outputs(model, batch[0]), self._targets(batch)
        depth, normals, segmentation = (task.name for task in self.tasks)
        return {
            depth: depth_loss(outputs[depth], targets.depths, targets.known, self.depth_loss),
            normals: normals_loss(outputs[normals], targets.normals, targets.normals.any(1)),
            segmentation: segmentation_loss(outputs[segmentation], targets.labels),
        }

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Mean absolute or root mean squared error, mean angle and mean IoU, over all pixels that have a target."""
        device = next(model.parameters()).device
        depth, normals, segmentation = (task.name for task in self.tasks)
        error, angle = DepthError(self.depth_metric, device), AngularError(device)
        iou = MeanIoU(self.classes, device)
        for rows in ordered_batches(self._rows(split), self.evaluation_batch):
            batch = to_device(rows, device)
            outputs, targets = self._outputs(model, batch[0]), self._targets(batch)
            error.update(outputs[depth], targets.depths, targets.known)
            angle.update(outputs[normals], targets.normals, targets.normals.any(1))
            iou.update(outputs[segmentation], targets.labels)
        return {depth: error.compute(), normals: angle.compute(), segmentation: iou.compute()}
