"""Networks that join the outputs of heads in one tensor, as recommenders and detectors are mostly written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import MLP, Shape, convolution


class MMoE(Shape):
    """Experts, a gate and a tower a task, and all predictions in one tensor of T columns (Ma et al., KDD 2018).

    W is the last layers of the experts. The table's columns are taken as they come, without embeddings.
    """

    def __init__(self, batch: int = 512, columns: int = 256, experts: int = 8, tasks: int = 6) -> None:
        nn.Module.__init__(self)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(columns, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()) for _ in range(experts)
        )
        self.gates = nn.ModuleList(nn.Linear(columns, experts) for _ in range(tasks))
        self.towers = nn.ModuleList(
            nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
            for _ in range(tasks)
        )
        self.shared = nn.ModuleList(expert[2] for expert in self.experts)
        self.tasks = [f"task{i}" for i in range(tasks)]
        self.register_buffer("x", torch.randn(batch, columns))
        self.register_buffer("y", torch.randint(2, (batch, tasks)).float())

    def outputs(self) -> list[Tensor]:
        experts = torch.stack([expert(self.x) for expert in self.experts], dim=1)
        shares = [gate(self.x).softmax(dim=1).unsqueeze(-1) for gate in self.gates]
        pairs = zip(self.towers, shares, strict=True)
        return [tower((share * experts).sum(dim=1)).sigmoid() for tower, share in pairs]

    def losses(self) -> dict[str, Tensor]:
        out = torch.cat(self.outputs(), dim=1)
        return {task: F.binary_cross_entropy(out[:, i], self.y[:, i]) for i, task in enumerate(self.tasks)}


class Columns(MLP):
    """A trunk and a tower a task, whose losses are a vector: squared errors of one tensor of columns."""

    def __init__(self, batch: int = 512, tasks: int = 6) -> None:
        super().__init__(batch, [256, 256, 128], tasks, 1)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
            for _ in range(tasks)
        )
        self.register_buffer("y", torch.randn(batch, tasks))

    def losses(self) -> dict[str, Tensor]:
        every = F.mse_loss(torch.cat(self(self.x), dim=1), self.y, reduction="none").mean(0)
        return dict(zip(self.tasks, every.unbind(), strict=True))


class Detector(Shape):
    """A small pyramid of three scales with one decoupled head: boxes, objectness and classes in one tensor.

    W is the pyramid's last convolution of each scale.
    """

    def __init__(self, batch: int = 2, size: int = 64, width: int = 32, classes: int = 10) -> None:
        nn.Module.__init__(self)
        channels = [width, 2 * width, 4 * width]
        self.stem = nn.Sequential(*convolution(3, width, 3, 2), *convolution(width, width, 3, 2))
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(channels[max(0, k - 1)], c, 3, 1 + (k > 0)), *convolution(c, c))
            for k, c in enumerate(channels)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.shared = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.boxes = nn.Sequential(*convolution(width, width), *convolution(width, width))
        self.classes = nn.Sequential(*convolution(width, width), *convolution(width, width))
        self.box, self.score = nn.Conv2d(width, 4, 1), nn.Conv2d(width, 1, 1)
        self.label = nn.Conv2d(width, classes, 1)
        self.tasks = ["box", "objectness", "class"]
        self.register_buffer("x", torch.randn(batch, 3, size, size))
        anchors = sum((size >> k) ** 2 for k in (2, 3, 4))
        self.register_buffer("y", torch.rand(batch, anchors, 5 + classes))
        self.register_buffer("here", torch.rand(batch, anchors) < 0.05)

    def scales(self) -> list[Tensor]:
        x, maps = self.stem(self.x), []
        for block in self.down:
            x = block(x)
            maps.append(x)
        merged = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for k in (1, 0):
            merged[k] = merged[k] + F.interpolate(merged[k + 1], scale_factor=2.0)
        return [layer(x).relu() for layer, x in zip(self.shared, merged, strict=True)]

    def losses(self) -> dict[str, Tensor]:
        rows = []
        for x in self.scales():
            place = self.boxes(x)
            whole = torch.cat([self.box(place), self.score(place), self.label(self.classes(x))], dim=1)
            rows.append(whole.flatten(2).transpose(1, 2))
        out = torch.cat(rows, dim=1)
        return {
            "box": F.smooth_l1_loss(out[..., :4][self.here], self.y[..., :4][self.here]),
            "objectness": F.binary_cross_entropy_with_logits(out[..., 4], self.here.float()),
            "class": F.binary_cross_entropy_with_logits(out[..., 5:][self.here], self.y[..., 5:][self.here]),
        }
