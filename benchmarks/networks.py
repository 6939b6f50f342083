"""The networks that `benchmarks.step` times, each with one fixed batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shape(nn.Module):
    """A trunk that ends in the shared layer, what follows it, a head for each task, and one batch."""

    shared: nn.Module

    def __init__(self, trunk: nn.Module, after: nn.Module, heads: Sequence[nn.Module], x: Tensor) -> None:
        super().__init__()
        self.trunk, self.after, self.heads = trunk, after, nn.ModuleList(heads)
        self.register_buffer("x", x)
        with torch.no_grad():
            outputs = self(x)
        for i, output in enumerate(outputs):
            self.register_buffer(f"y{i}", torch.randn_like(output))
        self.tasks = [f"task{i}" for i in range(len(heads))]

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.after(self.trunk(x))
        return [head(features) for head in self.heads]

    def losses(self) -> dict[str, Tensor]:
        outputs = zip(self.tasks, self(self.x), strict=True)
        return {task: F.mse_loss(output, self.get_buffer(f"y{i}")) for i, (task, output) in enumerate(outputs)}


class MLP(Shape):
    """Linear layers with rectifiers; W is the last of the trunk."""

    def __init__(self, batch: int, widths: Sequence[int], tasks: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        heads = [nn.Linear(widths[-1], outputs) for _ in range(tasks)]
        super().__init__(nn.Sequential(*layers[:-1]), nn.ReLU(), heads, torch.randn(batch, widths[0]))
        self.shared = self.trunk[-1]


def toy(tasks: int) -> MLP:
    """The toy of the GradNorm paper, Section 4: four layers of 100, heads of 100, batch of 100."""
    return MLP(100, [250, 100, 100, 100, 100], tasks, 100)


def tabular(tasks: int = 40) -> MLP:
    """A table of 300 columns and 40 yes-or-no tasks."""
    return MLP(512, [300, 256, 256, 128], tasks, 1)


def convolution(a: int, b: int, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """With normalization and rectifier."""
    return [nn.Conv2d(a, b, kernel, stride, kernel // 2), nn.BatchNorm2d(b), nn.ReLU()]


class SegNet(nn.Module):
    """A VGG16 encoder and its mirror image, unpooling by the pooling's indices (Badrinarayanan et al., 2017)."""

    BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

    def __init__(self, width: float) -> None:
        super().__init__()
        sizes = [(int(c * width), n) for c, n in self.BLOCKS]
        self.down, self.up, before = nn.ModuleList(), nn.ModuleList(), 3
        for channels, n in sizes:
            layers = [layer for k in range(n) for layer in convolution(before if k == 0 else channels, channels)]
            self.down.append(nn.Sequential(*layers))
            before = channels
        for i, (channels, n) in reversed(list(enumerate(sizes))):
            below = sizes[i - 1][0] if i else channels
            layers = [layer for k in range(n) for layer in convolution(channels, below if k == n - 1 else channels)]
            self.up.append(nn.Sequential(*layers))
        self.last = self.up[-1][-3]  # the heads follow its normalisation and rectifier

    def forward(self, x: Tensor) -> Tensor:
        indices = []
        for block in self.down:
            x, where = F.max_pool2d(block(x), 2, return_indices=True)
            indices.append(where)
        for block in self.up:
            x = block(F.max_unpool2d(x, indices.pop(), 2))
        return x


def segnet(width: float = 0.25, size: int = 64, batch: int = 2) -> Shape:
    """The paper's VGG16 SegNet: all shared but the last layer; depth, normals, 13 classes."""
    trunk, channels = SegNet(width), int(64 * width)
    heads = [nn.Conv2d(channels, outputs, 3, padding=1) for outputs in (1, 3, 13)]
    network = Shape(trunk, nn.Identity(), heads, torch.randn(batch, 3, size, size))
    network.shared = trunk.last
    return network


class Bottleneck(nn.Module):
    """ResNet's."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        inner = b // 4
        self.path = nn.Sequential(
            *convolution(a, inner, 1), *convolution(inner, inner, 3, stride), *convolution(inner, b, 1)[:-1]
        )
        self.skip = nn.Identity() if a == b else nn.Sequential(*convolution(a, b, 1, stride)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.skip(x)).relu()


def fcn(width: float = 0.25, size: int = 96, batch: int = 2) -> Shape:
    """The paper's thinned ResNet-50 and a shallow decoder of learned upsampling; all shared but the last layer."""
    w = [int(c * width) for c in (64, 256, 512, 1024)]
    layers: list[nn.Module] = convolution(3, w[0], 7, 2)
    for before, after, blocks in ((w[0], w[1], 3), (w[1], w[2], 4), (w[2], w[3], 6)):
        layers += [Bottleneck(before if k == 0 else after, after, 2 if k == 0 else 1) for k in range(blocks)]
    for before, after in ((w[3], w[2]), (w[2], w[1])):
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
    shared = nn.Conv2d(w[1], w[0], 3, padding=1)
    heads = [nn.Conv2d(w[0], outputs, 1) for outputs in (1, 3, 13)]
    network = Shape(nn.Sequential(*layers, shared), nn.ReLU(), heads, torch.randn(batch, 3, size, size))
    network.shared = shared
    return network


class Encoder(nn.Module):
    """A transformer encoder with a projection of its mean: W."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.encoder(x).mean(1))


def transformer(width: int = 128, layers: int = 3, tokens: int = 32, batch: int = 16, tasks: int = 5) -> Shape:
    """A small transformer encoder, one linear head per task on the projected mean."""
    trunk = Encoder(width, layers)
    heads = [nn.Linear(width, 8) for _ in range(tasks)]
    network = Shape(trunk, nn.GELU(), heads, torch.randn(batch, tokens, width))
    network.shared = trunk.project
    return network
