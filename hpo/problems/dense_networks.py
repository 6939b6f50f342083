"""Networks for tasks that predict something at every pixel: two of the GradNorm paper's Section 5, and a U-Net."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.arguments import check_choice, check_count, check_positive

Architecture = Literal["segnet", "fcn"]

LEAST_CHANNELS = 8  # of any layer, however small the width
SMALLEST_SIDE = 32  # both halve the grid five times
STRIDES = (1, 2, 4)

# VGG16's blocks: channels, and convolutions of 3x3; a 2x2 pooling follows each
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# The thinned ResNet-50's stages: channels, a quarter of which is inside a bottleneck; bottlenecks; the first's stride
THIN_RESNET50 = ((256, 3, 2), (512, 4, 2), (1024, 6, 2), (1024, 3, 1))
RESNET_STEM = 64
FCN_DECODER = (512, 256, 128)  # channels after each doubling of the grid
FCN_STRIDE = 4
UNET = (64, 128, 256, 512, 512)  # channels at width 1, from the finest grid to the coarsest


class DenseNetwork(nn.Module):
    """A trunk, the last convolution that all tasks share, and a head of 1x1 convolutions for each task.

    Args:
        trunk: (B, inputs, H, W) to (B, channels, h, w).
        channels: of the trunk's output.
        shared: channels of the shared features.
        outputs: channels of each task's output, by task name.
        stride: an output has ceil(H / stride) rows and ceil(W / stride) columns.
    """

    def __init__(self, trunk: nn.Module, channels: int, shared: int, outputs: Mapping[str, int], stride: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.last = _convolution(channels, shared)
        self.apply(_initialise)  # not the heads, which no rectifier follows
        self.heads = nn.ModuleDict({task: nn.Conv2d(shared, width, 1) for task, width in outputs.items()})
        self.stride = stride

    @property
    def shared_layer(self) -> nn.Module:
        """The last convolution that all tasks share; batch normalisation and a rectifier follow it."""
        return self.last[0]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Each task's raw output, ``x`` (B, inputs, H, W) to (B, outputs of the task, H / stride, W / stride).

        H and W are at least 32. While training, batch normalisation needs more than one value a channel on the
        deepest grid, which is H // 16 by W // 16 in SegNet and ceil(H / 32) by ceil(W / 32) in the FCN, for which a
        batch of one 32x32 image is too small.
        """
        grid = [-(-side // self.stride) for side in x.shape[-2:]]
        features = self.last(self.trunk(x))
        return {task: _resized(head(features), grid) for task, head in self.heads.items()}


class SegNet(nn.Module):
    """VGG16 and its mirror image, unpooling by the pooling's indices, but for the mirror image's last convolution.

    Args:
        inputs: channels of the input.
        width: scales the channels.
        stride: 1, 2 or 4; the mirror image ends where its grid is that part of the input's.

    Attributes:
        channels: of the output.
        shared: of the convolution that is left out.
    """

    def __init__(self, inputs: int, width: float, stride: int) -> None:
        super().__init__()
        sizes = [(_scaled(channels, width), count) for channels, count in VGG16]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        before, first = inputs, stride.bit_length() - 1
        for channels, count in sizes:
            self.down.append(_convolutions([before, *[channels] * count]))
            before = channels
        for i in reversed(range(first, len(sizes))):
            channels, count = sizes[i]
            below = sizes[i - 1][0] if i else channels
            self.up.append(_convolutions([*[channels] * count, *([below] if i > first else [])]))
        self.channels, self.shared = channels, below

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, channels, H // stride, W // stride)."""
        sizes, indices = [], []
        for block in self.down:
            x = block(x)
            sizes.append(x.shape[-2:])
            x, where = F.max_pool2d_with_indices(x, [2, 2])
            indices.append(where)
        for block in self.up:
            x = block(F.max_unpool2d(x, indices.pop(), [2, 2], output_size=sizes.pop()))
        return x


class FCN(nn.Module):
    """The thinned ResNet-50 and a shallow residual decoder.

    Args:
        inputs: channels of the input.
        width: scales the channels.

    Attributes:
        channels: of the output.
    """

    def __init__(self, inputs: int, width: float) -> None:
        super().__init__()
        before = _scaled(RESNET_STEM, width)
        layers: list[nn.Module] = [_convolution(inputs, before, 7, 2), nn.MaxPool2d(3, 2, 1)]
        for full, count, stride in THIN_RESNET50:
            channels = _scaled(full, width)
            for k in range(count):
                layers.append(Bottleneck(before, channels, stride if k == 0 else 1))
                before = channels
        for full in FCN_DECODER:
            channels = _scaled(full, width)
            layers.append(Bottleneck(before, channels, 2, up=True))
            before = channels
        self.layers, self.channels = nn.Sequential(*layers), before

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, channels, ceil(H / 4), ceil(W / 4))."""
        h, w = (-(-side // FCN_STRIDE) for side in x.shape[-2:])
        features: Tensor = self.layers(x)
        return features[..., :h, :w]  # a grid of odd side was rounded up where it was halved


class UNet(nn.Module):
    """A small U-Net: a path to coarser grids and one back, on which the first one's features join in at every grid.

    After "U-Net: Convolutional Networks for Biomedical Image Segmentation" (Ronneberger, Fischer, Brox, MICCAI 2015,
    https://arxiv.org/abs/1505.04597), with one convolution of 3x3 for its two, batch normalisation, padding, and a
    resize to the nearest cell for its transposed convolutions. Five grids, each half as fine as the one before it.

    Args:
        inputs: channels of the input.
        width: scales the channels.

    Attributes:
        channels: of the output; half of them come past all coarser grids.

    >>> UNet(4, 0.125)(torch.zeros(2, 4, 60, 44)).shape
    torch.Size([2, 16, 60, 44])
    """

    def __init__(self, inputs: int, width: float) -> None:
        super().__init__()
        sizes = [max(LEAST_CHANNELS, round(channels * width)) for channels in UNET]
        self.down = nn.ModuleList(_convolution(a, b) for a, b in pairwise([inputs, *sizes]))
        self.up = nn.ModuleList()
        before = sizes[-1]
        for size in reversed(sizes[:-1]):
            self.up.append(_convolution(before, size))
            before = 2 * size
        self.channels = before

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, channels, H, W)."""
        passed = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            passed.append(x)
        passed.pop()
        for block in self.up:
            beside = passed.pop()
            x = torch.cat([beside, F.interpolate(block(x), beside.shape[-2:])], dim=1)
        return x


class Bottleneck(nn.Module):
    """ResNet's residual block of 1x1, 3x3 and 1x1 convolutions; ``up``: transposed, to a grid ``stride`` as fine."""

    def __init__(self, before: int, after: int, stride: int, *, up: bool = False) -> None:
        super().__init__()
        inner = max(LEAST_CHANNELS, after // 4)
        middle = _convolution(inner, inner, 3, stride)
        skip: nn.Module = nn.Conv2d(before, after, 1, stride, bias=False)
        if up:
            transposed = nn.ConvTranspose2d(inner, inner, 2 * stride, stride, stride // 2, bias=False)
            middle = nn.Sequential(transposed, nn.BatchNorm2d(inner), nn.ReLU(inplace=True))
            skip = nn.ConvTranspose2d(before, after, stride, stride, bias=False)
        expand = nn.Sequential(nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after))
        self.path = nn.Sequential(_convolution(before, inner, 1), middle, expand)
        same = before == after and stride == 1
        self.skip = nn.Identity() if same else nn.Sequential(skip, nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H / stride, W / stride), or, if ``up``, times stride."""
        return F.relu(self.path(x) + self.skip(x))


def dense_network(
    architecture: Architecture, inputs: int, outputs: Mapping[str, int], width: float, seed: int, *, stride: int = 1
) -> DenseNetwork:
    """A multitask network for dense prediction as in Section 5.1 of the GradNorm paper.

    "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks" (Chen, Badrinarayanan,
    Lee, Rabinovich, ICML 2018, https://arxiv.org/abs/1711.02257) trains two networks whose tasks share all layers but
    the last:

    - ``"segnet"``: a SegNet with a symmetric VGG16 encoder and decoder, which reuses the pooling's indices to unpool.
      Paper: 29 M parameters; here 29.2 M.
    - ``"fcn"``: an FCN with ResNet-50 as encoder, thinned (strides moved to earlier layers, 1024 filters in place of
      2048), and a shallow ResNet decoder with learned upsampling. Paper: 15 M parameters; here 15.4 M.

    Both counts are for three tasks of 17 outputs in all, ``width=1.0`` and ``stride=4``. This is
    what the paper leaves open and what is done here:

    - Its inputs have 320x320 pixels and its outputs 80x80, that is ``stride=4``. SegNet's decoder then ends where its
      grid is a quarter of the input's; with ``stride=1`` it is whole, 29.5 M parameters.
    - SegNet ("SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation", Badrinarayanan,
      Kendall, Cipolla, https://arxiv.org/abs/1511.00561): batch normalisation and a rectifier follow every
      convolution, the last shared one too; the heads read each pixel for itself.
    - ResNet-50 ("Deep Residual Learning for Image Recognition", He, Zhang, Ren, Sun,
      https://arxiv.org/abs/1512.03385): each stage has the stride of ResNet-50's next one, the last has none. All
      stages' activations are thus a quarter as large, but the last's, and the deepest grid still is a 32nd of the
      input's. The last stage's bottlenecks have 256 channels inside, a quarter of 1024, as in all other stages.
    - The decoder of the FCN doubles the grid three times, each by a residual block with transposed convolutions on
      both of its ways; a convolution of 3x3 ends it. Its grid is a quarter of the input's; with a smaller ``stride``
      the heads' outputs are resized bilinearly.
    - Every task's head is a convolution of 1x1.
    - Initial weights are He normal, torch's standard in the heads. Nothing is pretrained.

    Args:
        architecture: ``"segnet"`` or ``"fcn"``.
        inputs: channels of the input.
        outputs: channels of each task's output, by task name.
        width: scales the channels of all layers; no layer has fewer than 8.
        seed: fixes the initial parameters; the global random state stays as it is.
        stride: 1, 2 or 4: an output has one pixel for ``stride`` by ``stride`` of the input.

    Raises:
        ProblemError: an argument out of its range.

    >>> network = dense_network("segnet", inputs=4, outputs={"depth": 1, "normals": 3}, width=0.125, seed=0)
    >>> network(torch.zeros(2, 4, 60, 44))["normals"].shape
    torch.Size([2, 3, 60, 44])
    """
    check_choice("architecture", architecture, get_args(Architecture))
    check_count("inputs", inputs)
    for task, channels in outputs.items():
        check_count(f"outputs[{task!r}]", channels)
    check_positive("width", width)
    check_stride(stride)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
        if architecture == "segnet":
            segnet = SegNet(inputs, width, stride)
            return DenseNetwork(segnet, segnet.channels, segnet.shared, outputs, stride)
        fcn = FCN(inputs, width)
        return DenseNetwork(fcn, fcn.channels, fcn.channels, outputs, stride)


def unet(inputs: int, outputs: Mapping[str, int], width: float, seed: int) -> DenseNetwork:
    """A `UNet`, the shared convolution and a head for each task; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU too
        trunk = UNet(inputs, width)
        return DenseNetwork(trunk, trunk.channels, trunk.channels // 2, outputs, stride=1)


def check_stride(value: Any) -> int:
    """One of `STRIDES`; ``True`` and ``4.0`` are none.

    Raises:
        ProblemError: anything else.
    """
    stride = check_count("stride", value)
    if stride not in STRIDES:
        raise ProblemError(complaint("stride", ", ".join(map(str, STRIDES)), stride))
    return stride


def _scaled(channels: int, width: float) -> int:
    return max(LEAST_CHANNELS, round(channels * width))


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps the grid or divides it, with batch normalisation and a rectifier."""
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def _convolutions(channels: list[int]) -> nn.Sequential:
    """One 3x3 convolution after the other, from each number of channels to the next."""
    return nn.Sequential(*(_convolution(a, b) for a, b in pairwise(channels)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _resized(output: Tensor, grid: list[int]) -> Tensor:
    if list(output.shape[-2:]) == grid:
        return output
    return F.interpolate(output, grid, mode="bilinear", align_corners=False)
