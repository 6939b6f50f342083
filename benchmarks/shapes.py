"""The networks that `benchmarks.step` times, by name."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.joined_networks import Columns, Detector, MMoE
from benchmarks.networks import Shape, fcn, segnet, tabular, toy, transformer

SHAPES: dict[str, Callable[[], Shape]] = {
    "toy, 2 tasks": lambda: toy(2),
    "toy, 10 tasks": lambda: toy(10),
    "VGG SegNet, 3 dense heads": segnet,
    "ResNet FCN, 3 dense heads": fcn,
    "transformer encoder, 5 small heads": transformer,
    "tabular MLP, 40 tasks": tabular,
    "recommender: MMoE, 6 tasks in one tensor": MMoE,
    "towers, 6 tasks, a vector of losses": Columns,
    "detector: pyramid, box, objectness and class in one tensor": Detector,
}
