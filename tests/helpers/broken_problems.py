"""A small problem without a fault, and one for each thing that `gradsweep check` should find."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hpo.problems.base import Problem, Split, Task
from hpo.problems.data_cache import ShuffledBatches

ROWS: dict[Split, tuple[int, int]] = {"train": (0, 64), "val": (64, 96), "test": (96, 128)}


class Sound(Problem):
    """Two regressions from three numbers, through two shared layers."""

    tasks = (Task("near", "MSE"), Task("far", "R2", "maximize"))
    epochs = 50

    def __init__(self, extra: Any = None) -> None:
        self.extra = extra

    def build_model(self, seed: int) -> nn.Module:
        return nn.ModuleDict(
            {
                "first": nn.Linear(3, 8),
                "last": nn.Linear(8, 8),
                "norm": nn.LayerNorm(8),
                "near": nn.Linear(8, 1),
                "far": nn.Linear(8, 1),
            }
        )

    def shared_layer(self, model: Any) -> Any:
        return model["last"]

    def examples(self, split: Split) -> Tensor:
        start, end = ROWS[split]
        return torch.randn(128, 3, generator=torch.Generator().manual_seed(0))[start:end]

    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        rows = (self.examples(split),)
        return ShuffledBatches(rows, 16, seed) if split == "train" else [rows]

    def features(self, model: Any, x: Tensor) -> Tensor:
        return model["norm"](model["last"](model["first"](x).tanh()).tanh())

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        (x,) = batch
        features = self.features(model, x)
        near = (model["near"](features)[:, 0] - x[:, 0]).square().mean()
        return {"near": near, "far": 100 * (model["far"](features)[:, 0] - 2 * x[:, 1]).square().mean()}

    def evaluate(self, model: Any, split: Split) -> dict[str, float]:
        x = self.examples(split).to(next(model.parameters()).device)
        losses = self.losses(model, (x,))
        return {"near": losses["near"].item(), "far": 1 - losses["far"].item() / 100 / (2 * x[:, 1]).var().item()}

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.01)


class OneBatch(Sound):
    def loader(self, split, seed):
        return [(self.examples(split),)]


class Lazy(Sound):
    """Its first layer learns from the first batch how many inputs there are."""

    def build_model(self, seed):
        model = super().build_model(seed)
        model["first"] = nn.LazyLinear(8)
        return model


class OneTask(Sound):
    tasks = (Task("near", "MSE"),)

    def build_model(self, seed):
        model = super().build_model(seed)
        del model["far"]
        return model

    def losses(self, model, batch):
        (x,) = batch
        return {"near": (model["near"](self.features(model, x))[:, 0] - x[:, 0]).square().mean()}

    def evaluate(self, model, split):
        return {"near": self.losses(model, (self.examples(split),))["near"].item()}


# Constructors, data and their name.


class ConstructorRaises(Sound):
    def __init__(self) -> None:
        raise KeyError("depth")


class PrepareRaises(Sound):
    def prepare(self):
        open("/nowhere/images.npy")  # noqa: PTH123, SIM115 - as users do


class HashOfAnAddress(Sound):
    def data_hash(self):
        return f"data at {id(self)}"


class Tags:
    """Tells its tags in the order that they have in this process."""

    def __repr__(self) -> str:
        return f"Tags {set('abcdefgh')}"


class HashOfOneProcess(Sound):
    def __init__(self) -> None:
        self.tags, self.extra = Tags(), 1


class KeepsObjects(Sound):
    """Attributes that the default hash takes in by content or by type."""

    def __init__(self) -> None:
        self.transform, self.names, self.helper, self.numbers = (
            (lambda x: x),
            set("abcdefgh"),
            object(),
            torch.ones(3),
        )


class HashThatChanges(Sound):
    def evaluate(self, model, split):
        self.cached = True
        return super().evaluate(model, split)


class HashIsNoText(Sound):
    def data_hash(self):
        return 17


# The model.


class ModelIsNone(Sound):
    def build_model(self, seed):
        return {"first": nn.Linear(3, 8)}


class ModelRaises(Sound):
    def build_model(self, seed):
        return nn.Linear("3", 8)


class ModelByChance(Sound):
    count = itertools.count()

    def build_model(self, seed):
        torch.manual_seed(next(self.count))
        return super().build_model(seed)


class ModelOfOneSeed(Sound):
    def build_model(self, seed):
        torch.manual_seed(17)
        return super().build_model(seed)


# Batches and splits.


class NoTestBatch(Sound):
    def loader(self, split, seed):
        return [] if split == "test" else super().loader(split, seed)


class Generates(Sound):
    def loader(self, split, seed):
        yield from super().loader(split, seed)


class UsedUp(Sound):
    """An iterator of a class of its own."""

    def loader(self, split, seed):
        batches = iter(list(super().loader(split, seed)))

        class Batches:
            def __iter__(self) -> Iterator[Any]:
                return batches

        return Batches()


class SameOrder(Sound):
    def loader(self, split, seed):
        return list(super().loader(split, seed))


class OrderByChance(Sound):
    count = itertools.count()

    def loader(self, split, seed):
        return super().loader(split, next(self.count))


class OrderOfOneSeed(Sound):
    def loader(self, split, seed):
        return super().loader(split, 17)


class OtherValExamples(Sound):
    def loader(self, split, seed):
        x = next(self.count)
        return [(torch.full((4, 3), float(x)),)] if split == "val" else super().loader(split, seed)

    count = itertools.count()


class Overlaps(Sound):
    def examples(self, split):
        x = super().examples(split)
        return torch.cat([x, super().examples("train")[:5]]) if split == "val" else x


class BatchesOfText(Sound):
    def loader(self, split, seed):
        return [{"text": "a b"}] * 2

    def losses(self, model, batch):
        return super().losses(model, (self.examples("train"),))

    def evaluate(self, model, split):
        losses = super().losses(model, (self.examples(split),))
        return {task: -loss.item() if task == "far" else loss.item() for task, loss in losses.items()}


class Streams(Sound):
    """Without a length, and without a state."""

    def loader(self, split, seed):
        batches = super().loader(split, seed)

        class Batches:
            def __iter__(self) -> Iterator[Any]:
                return iter(batches)

        return Batches() if split == "train" else batches


# Losses.


class LossMissing(Sound):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return {"near": losses["near"], "fra": losses["far"]}


class AbsentAtFirst(Sound):
    """Every second batch has no example of ``far``, the first one too; there ``near`` is once exactly 0."""

    def __init__(self, absent: str = "missing") -> None:
        self.absent, self.calls = absent, 0

    def data_hash(self):
        return self.absent

    def losses(self, model, batch):
        losses = super().losses(model, batch)
        self.calls += 1
        if not model.training or self.calls % 2 == 0:
            return losses
        values = {"none": None, "nan": 0 * losses["far"] / 0, "zero": 0 * losses["far"], "number": 0.0}
        return {"near": losses["near"]} | ({} if self.absent == "missing" else {"far": values[self.absent]})


class LossIsInfiniteInTheThirdBatch(AbsentAtFirst):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"near": losses["near"] / 0} if self.calls == 3 else losses


class OutOfReach(Sound):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"far": 1e5 * losses["far"]}


class SharesATrunk(Sound):
    """Keeps one trunk for all networks."""

    trunk = nn.Linear(3, 8)

    def build_model(self, seed):
        model = super().build_model(seed)
        model["first"] = self.trunk
        return model


class FewSteps(Sound):
    epochs = 2


class EndsEarly(OneBatch):
    """Its loss still falls at the end of a trial."""

    epochs = 30

    def build_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=1e-3)


class LossesAreATuple(Sound):
    def losses(self, model, batch):
        return tuple(super().losses(model, batch).values())


class LossIsNoScalar(Sound):
    def losses(self, model, batch):
        return {task: loss.expand(3) for task, loss in super().losses(model, batch).items()}


class LossIsANumber(Sound):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"near": losses["near"].item()}


class LossWithoutGraph(Sound):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"far": losses["far"].detach()}


class LossIsNegative(Sound):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"far": losses["far"] - 1e6}


class LossIsNan(Sound):
    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"far": losses["far"] * float("nan")}


class LossRaises(Sound):
    def losses(self, model, batch):
        x, y = batch
        return {"near": x, "far": y}


class LossRaisesLate(Sound):
    def losses(self, model, batch):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 60:
            raise IndexError("batch 60 has no label")
        return super().losses(model, batch)

    def data_hash(self):
        return "late"


# The shared layer and the parameters.


class SharedOfAnotherModel(Sound):
    def shared_layer(self, model):
        return self.build_model(0)["last"]


class SharedIsFrozen(Sound):
    def shared_layer(self, model):
        return model["last"].requires_grad_(False)


class SharedIsAHead(Sound):
    def shared_layer(self, model):
        return model["far"]


class SharedIsNotTheLast(Sound):
    def shared_layer(self, model):
        return model["first"]


class SharedIsEverything(Sound):
    def shared_layer(self, model):
        return model


class Concatenated(Sound):
    """Its heads' outputs are one tensor, from which the losses take their columns, as most recommenders do."""

    def losses(self, model, batch):
        (x,) = batch
        features = self.features(model, x)
        near, far = torch.cat([model["near"](features), model["far"](features)], dim=1).unbind(1)
        return {"near": (near - x[:, 0]).square().mean(), "far": 100 * (far - 2 * x[:, 1]).square().mean()}


class SharedIsTheConcatenatedHeads(Concatenated):
    def shared_layer(self, model):
        return [*model["near"].parameters(), *model["far"].parameters()]


class SharedIsLeftOut(Sound):
    shared_layer = Problem.shared_layer


class SharedIsNotFound(SharedIsLeftOut):
    """The tasks have nothing in common."""

    def losses(self, model, batch):
        (x,) = batch
        near, far = model["first"](x).tanh(), model["last"](torch.cat([x, x], 1).repeat(1, 2)[:, :8])
        return {"near": model["near"](near).square().mean(), "far": model["far"](far).square().mean()}


class Experts(Sound):
    """Two experts beside each other, of which each task has its own mixture."""

    def features(self, model, x):
        return x

    def losses(self, model, batch):
        (x,) = batch
        left, right = model["first"](x).tanh(), model["last"](x.repeat(1, 3)[:, :8]).tanh()
        near, far = model["near"](left + right)[:, 0], model["far"](left - 2 * right)[:, 0]
        return {"near": (near - x[:, 0]).square().mean(), "far": (far - x[:, 1]).square().mean()}


class SharedIsOneExpert(Experts):
    def shared_layer(self, model):
        return model["first"]


class SharedIsOneOutputLayer(Sound):
    """One layer with a row for each task."""

    def shared_layer(self, model):
        return model["last"]

    def features(self, model, x):
        return model["last"](model["first"](x).tanh())

    def losses(self, model, batch):
        (x,) = batch
        outputs = self.features(model, x)
        return {"near": (outputs[:, 0] - x[:, 0]).square().mean(), "far": (outputs[:, 1] - x[:, 1]).square().mean()}


class SharedIsDead(Sound):
    def features(self, model, x):
        return super().features(model, x) + 0 * model["last"](model["first"](x))

    def losses(self, model, batch):
        (x,) = batch
        losses = super().losses(model, batch)
        return losses | {"near": 1 + 0 * model["near"](self.features(model, x)).mean()}


class IdleParameters(Sound):
    def build_model(self, seed):
        model = super().build_model(seed)
        model["unused"] = nn.Linear(8, 1)
        return model


# The optimizer and the first step.


class OptimizerOfHeads(Sound):
    def build_optimizer(self, model):
        return torch.optim.SGD([*model["near"].parameters(), *model["far"].parameters()], lr=0.01)


class OptimizerOfAnotherModel(Sound):
    def build_optimizer(self, model):
        return super().build_optimizer(self.build_model(0))


class NoOptimizer(Sound):
    def build_optimizer(self, model):
        return None


class LBFGS(Sound):
    def build_optimizer(self, model):
        return torch.optim.LBFGS(model.parameters())


class Scheduled(OneBatch):
    """Its schedule ends with a trial's last step, which the short runs of a check must not go beyond."""

    epochs = 30
    schedule_per = "step"
    clip_norm = 1.0
    autocast = torch.bfloat16

    def build_optimizer(self, model):
        optimizer = super().build_optimizer(model)
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=self.epochs)


class GradientIsNan(Sound):
    """sqrt at 0: the loss is finite."""

    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"far": losses["far"] + (0 * model["far"].weight).abs().sum().sqrt()}


class TaskByTask(Sound):
    """A head that reads the shared layer's weights."""

    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"far": losses["far"] + model["last"].weight.square().sum()}


class Diverges(Sound):
    def build_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=1e6)


# Metrics.


class MetricMissing(Sound):
    def evaluate(self, model, split):
        return {"near": super().evaluate(model, split)["near"]}


class MetricIsNan(Sound):
    def evaluate(self, model, split):
        return super().evaluate(model, split) | {"far": float("nan")}


class EvaluateRaises(Sound):
    def evaluate(self, model, split):
        return {"near": [][0]}


class NoTrainMetrics(Sound):
    def evaluate(self, model, split):
        if split == "train":
            raise NotImplementedError
        return super().evaluate(model, split)


class EvaluateByChance(Sound):
    def evaluate(self, model, split):
        metrics = super().evaluate(model, split)
        return metrics | {"far": metrics["far"] + torch.rand(()).item()}


class EvaluateTrains(Sound):
    def evaluate(self, model, split):
        with torch.no_grad():
            model["norm"].bias.add_(0.01)
        return super().evaluate(model, split)


class WrongDirection(Sound):
    tasks = (Task("near", "MSE", "maximize"), Task("far", "R2", "maximize"))


class NearZero(Sound):
    """A metric that a trained network leaves near 0."""

    def __init__(self, change: Any = "relative") -> None:
        super().__init__()
        self.tasks = (Task("near", "MSE"), Task("far", "R2", "maximize", change))

    def evaluate(self, model, split):
        found = super().evaluate(model, split)
        return found | {"far": min(20 * found["far"] - 10, 0.01)}


class MetricStays(Sound):
    def evaluate(self, model, split):
        return super().evaluate(model, split) | {"near": 1.0}


class LossRises(Sound):
    """Returns a score in place of a loss."""

    def losses(self, model, batch):
        losses = super().losses(model, batch)
        return losses | {"near": 1 / losses["near"]}

    def build_optimizer(self, model):
        return torch.optim.SGD(model.parameters(), lr=1e-4, maximize=True)


class Exits(Sound):
    def evaluate(self, model, split):
        raise SystemExit("no licence")
