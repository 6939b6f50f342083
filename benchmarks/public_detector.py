"""RetinaNet of torchvision on scenes of handwritten digits, some without any, for `benchmarks.public_models`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.public_recommenders import PublicModel

SIZE, DIGIT, BATCH, BATCHES = 64, 24, 4, 50
EMPTY_BATCH = 10  # every tenth batch has no digit at all


def allow_for_missing_operators() -> None:
    """Let torchvision be imported where its compiled operators cannot be loaded: PyPI's wheel needs a CUDA torch.

    A RetinaNet in training uses none of them.
    """
    spec = importlib.util.find_spec("torchvision")
    folder = spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else "."
    try:
        torch.ops.load_library(Path(folder) / "_C.so")
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        KEPT.append(library)


KEPT: list[Any] = []  # a library is gone with its object


def retinanet() -> PublicModel:
    """A RetinaNet with a ResNet-18, the ten digits as its classes.

    W is the last convolution of every scale of the pyramid. `find_shared_layer` would find the finest scale alone,
    since all digits are of one size and no box of the other scales has a gradient.
    """
    allow_for_missing_operators()
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = RetinaNet(backbone, num_classes=10, min_size=SIZE, max_size=SIZE)
    return PublicModel("RetinaNet, ResNet-18", model, scenes(), losses, adam, "backbone.fpn.layer_blocks")


def adam(model: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.AdamW(model.parameters(), lr=1e-4)]


def losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Return what the model returns in training: a loss for each task, as a balancer takes it."""
    images, targets = batch
    found: dict[str, Tensor] = model(images, targets)
    return found


def scenes() -> list[Any]:
    """Batches of images of up to three digits at random places; a quarter of the images have none."""
    digits, random = load_digits(), torch.Generator().manual_seed(0)
    pixels = torch.tensor(digits.images).float()[:, None] / 16
    large, labels = nn.functional.interpolate(pixels, size=DIGIT), torch.tensor(digits.target).long()

    def scene(count: int) -> tuple[Tensor, dict[str, Tensor]]:
        image, boxes = torch.rand(3, SIZE, SIZE, generator=random) * 0.2, torch.zeros(0, 4)
        chosen = torch.randint(len(large), (count,), generator=random)
        for k in chosen.tolist():
            x, y = torch.randint(SIZE - DIGIT, (2,), generator=random).tolist()
            image[:, y : y + DIGIT, x : x + DIGIT] += large[k]
            boxes = torch.cat([boxes, torch.tensor([[x, y, x + DIGIT, y + DIGIT]]).float()])
        return image, {"boxes": boxes, "labels": labels[chosen]}

    batches = []
    for step in range(BATCHES):
        counts = torch.randint(4, (BATCH,), generator=random).tolist() if step % EMPTY_BATCH else [0] * BATCH
        pairs = [scene(count) for count in counts]
        batches.append(([image for image, _ in pairs], [target for _, target in pairs]))
    return batches
