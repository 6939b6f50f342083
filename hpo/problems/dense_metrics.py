"""Losses and metrics of tasks that predict something at every pixel: depth, surface normals, segmentation.

A target may lack pixels: depth and normals come with a mask of the valid ones, a label that is missing is `IGNORED`.
Losses are means over the valid pixels of a batch; where it has none, the loss is 0 and still has a graph. Metrics are
collected over chunks of a split and weigh all its valid pixels alike. They are NaN for a network that has diverged,
and for a split without a valid pixel.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1  # the label of a pixel that has none


def depth_loss(output: Tensor, target: Tensor, valid: Tensor, kind: Literal["l1", "l2"] = "l2") -> Tensor:
    """Mean absolute (``"l1"``) or squared (``"l2"``) error over valid pixels, in the target's unit or its square.

    Args:
        output: (B, 1, H, W).
        target: (B, H, W); anything, NaN too, where not valid.
        valid: (B, H, W), bool.
        kind: which of the two.

    >>> target = torch.tensor([[[1.0, 3.0, float("nan")]]])
    >>> depth_loss(torch.zeros(1, 1, 1, 3), target, target.isfinite())
    tensor(5.)
    """
    prediction = output.squeeze(1)
    error = prediction - torch.where(valid, target, prediction.detach())  # 0, and so its gradient, where not valid
    return _mean(error.abs() if kind == "l1" else error.square(), valid)


def normals_loss(output: Tensor, target: Tensor, valid: Tensor, *, either_side: bool = False) -> Tensor:
    """Mean of 1 - cos over valid pixels, the angle being that between output and target, whatever their lengths.

    To leading order it is half the squared angle in radians.

    Args:
        output: (B, 3, H, W), need not be unit vectors.
        target: (B, 3, H, W); anything but NaN where not valid.
        valid: (B, H, W), bool.
        either_side: 1 - abs(cos) instead, which does not distinguish a normal from its opposite.

    >>> up, down = torch.tensor([0.0, 0.0, 2.0]).view(1, 3, 1, 1), torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1)
    >>> normals_loss(up, down, torch.ones(1, 1, 1, dtype=torch.bool))
    tensor(2.)
    """
    cosine = F.cosine_similarity(output, target, dim=1)
    error = 1 - (cosine.abs() if either_side else cosine)
    return _mean(torch.where(valid, error, 0.0), valid)


def segmentation_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that have a label.

    Args:
        output: logits (B, C, H, W).
        labels: (B, H, W), int64, `IGNORED` where there is none.
    """
    total = F.cross_entropy(output, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def _mean(errors: Tensor, valid: Tensor) -> Tensor:
    """Over valid pixels of errors that are 0 elsewhere; 0 where no pixel is valid."""
    return errors.sum() / valid.sum().clamp(min=1)


class DepthError:
    """Root mean squared (``"rms"``) or mean absolute (``"mae"``) error over valid pixels, in the target's unit.

    Args:
        kind: which of the two.
        device: where the outputs are.
    """

    def __init__(self, kind: Literal["rms", "mae"], device: torch.device) -> None:
        from torchmetrics import MeanAbsoluteError, MeanSquaredError  # here, as importing it takes seconds

        metric = MeanSquaredError(squared=False) if kind == "rms" else MeanAbsoluteError()
        self._metric = metric.to(device)

    def update(self, output: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a chunk, as in `depth_loss`."""
        self._metric.update(output.squeeze(1)[valid], target[valid])

    def compute(self) -> float:
        """The error over all chunks."""
        return float(self._metric.compute())


class AngularError:
    """Mean angle between output and target normals over valid pixels, in degrees.

    Args:
        device: where the outputs are.
    """

    def __init__(self, device: torch.device) -> None:
        from torchmetrics import MeanAbsoluteError

        self._metric = MeanAbsoluteError().to(device)  # of angles against 0

    def update(self, output: Tensor, target: Tensor, valid: Tensor) -> None:
        """Add a chunk, as in `normals_loss`."""
        degrees = angles(output, target)[valid].rad2deg()
        self._metric.update(degrees, torch.zeros_like(degrees))

    def compute(self) -> float:
        """The error over all chunks."""
        return float(self._metric.compute())


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between vectors (B, 3, H, W) in radians, (B, H, W), from 0 to pi.

    From the arctangent of cross over dot product, exact for small angles too, where the arccosine is not. A vector of
    length 0, or one so short that its square underflows, is at a right angle to all others, for which `normals_loss`
    is 1; NaN stays NaN.

    >>> angles(torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)).rad2deg()
    tensor([[[90.]]])
    """
    a, b = _near_one(a), _near_one(b)
    sine, cosine = torch.linalg.cross(a, b, dim=1).norm(dim=1), (a * b).sum(1)
    return torch.where((sine == 0) & (cosine == 0), torch.pi / 2, torch.atan2(sine, cosine))


def _near_one(vectors: Tensor) -> Tensor:
    """The vectors times powers of two, which round nothing: the largest component is from 0.5 to 1, or 0."""
    largest = vectors.abs().amax(1, keepdim=True)
    mantissa, _ = torch.frexp(largest)
    vanishes = largest < torch.finfo(vectors.dtype).tiny ** 0.5
    return torch.where(vanishes, 0.0, vectors * (mantissa / largest))


class MeanIoU:
    """Mean over the classes of the intersection over union of labelled and predicted pixels, from 0 to 1.

    Intersections and unions are counted over the whole split; a class that is neither labelled nor predicted in it is
    left out.

    Args:
        classes: C.
        device: where the outputs are.
    """

    def __init__(self, classes: int, device: torch.device) -> None:
        from torchmetrics.classification import MulticlassJaccardIndex

        self._metric = MulticlassJaccardIndex(classes, ignore_index=IGNORED, validate_args=False).to(device)
        self._diverged = torch.zeros((), dtype=torch.bool, device=device)
        self._labelled = torch.zeros((), dtype=torch.bool, device=device)

    def update(self, output: Tensor, labels: Tensor) -> None:
        """Add a chunk, as in `segmentation_loss`."""
        self._diverged |= output.isnan().any()
        self._labelled |= (labels != IGNORED).any()
        self._metric.update(output.argmax(1), labels)

    def compute(self) -> float:
        """The mean over all chunks."""
        known = bool(self._labelled) and not bool(self._diverged)
        return float(self._metric.compute()) if known else float("nan")
