"""Trials that are trained at once have the same results as alone, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hpo.training.checkpoints
from hpo.core.storage import Storage
from hpo.core.trial import TrialConfig
from hpo.problems import load_problem
from hpo.problems.base import Problem
from hpo.training.checkpoints import Checkpoints
from hpo.training.cohort import run_cohort
from hpo.training.stacked_network import NotStackable
from hpo.training.stacking_check import check_stackable
from hpo.training.trial import run_trial
from tests.helpers.cohorts import (
    CPU,
    EPSILON,
    FEW,
    ONE_OF_EACH,
    Heard,
    Normed,
    Precise,
    alone,
    apart,
    check_same,
    cohort_of,
    columns,
    train,
)
from tests.helpers.small_problem import BATCHES, Small


class Frozen(Precise):
    """Half of the trunk is not trained, and the optimizer is another."""

    def build_model(self, seed: int) -> nn.Module:
        model: Any = super().build_model(seed)
        model.trunk.bias.requires_grad_(False)
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=0.01)


class Labelled(Precise):
    """No example of some batches has a label of `far`, or of `tiny`: the mean loss over them is NaN."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses, x = super().losses(model, batch), batch[0]
        for place, task in enumerate(("far", "tiny")):
            if x[0, place] > 0:
                losses[task] = losses[task].expand(2)[:0].mean()
        return losses


@pytest.mark.parametrize("kind", [Precise, Normed, Frozen, Labelled])
def test_every_method_ends_as_it_does_alone(kind: type[Precise]) -> None:
    configs = cohort_of(*ONE_OF_EACH)
    heard = train(configs, kind())
    assert heard.whys == []
    for config in configs:
        check_same(heard, config, kind(), len(configs))


def test_the_same_in_single_precision() -> None:
    """But for recipes that move by the sign of a gap, which rounding decides where a target is met."""
    configs = cohort_of(*(one for one in ONE_OF_EACH if one[1].get("recipe", "direct") == "direct"))
    heard = train(configs, Small())
    for config in configs:
        check_same(heard, config, Small(), len(configs), close=2e-2)


def test_trials_of_other_seeds_and_lengths_are_trained_apart() -> None:
    configs = cohort_of(*ONE_OF_EACH[:2])
    others = [replace(config, seed=1) for config in configs]
    longer = replace(configs[0], epochs=5)
    heard = train([*configs, *others, longer], Precise())
    for config in [*configs, *others]:
        check_same(heard, config, Precise(), 2)
    check_same(heard, longer, Precise(), 1)


class Real(Problem):
    """The first steps of each epoch of a built-in problem, without its metrics, which take longer.

    A subclass changes its network or its training batches.
    """

    def __init__(self, problem: Problem, steps: int) -> None:
        self.problem, self.tasks, self.epochs, self.steps = problem, problem.tasks, problem.epochs, steps

    def build_model(self, seed: int) -> nn.Module:
        return self.problem.build_model(seed)

    def shared_layer(self, model: nn.Module) -> Any:
        return self.problem.shared_layer(model)

    def loader(self, split: Any, seed: int) -> Any:
        return First(self.problem.loader(split, seed), self.steps, self.change)

    def change(self, tensor: Tensor) -> Tensor:
        return tensor

    def losses(self, model: nn.Module, batch: Any) -> Any:
        return self.problem.losses(model, batch)

    def evaluate(self, model: nn.Module, split: Any) -> dict[str, float]:
        return dict.fromkeys([task.name for task in self.tasks], 0.0)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return self.problem.build_optimizer(model)


class First:
    """The first batches of a loader, their floating-point tensors changed."""

    def __init__(self, batches: Any, count: int, change: Callable[[Tensor], Tensor]) -> None:
        assert count <= len(batches)
        self.batches, self.count, self.change = batches, count, change

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        for batch in islice(self.batches, self.count):
            yield tuple(self.change(tensor) if tensor.is_floating_point() else tensor for tensor in batch)


class RealDouble(Real):
    """In double precision."""

    def build_model(self, seed: int) -> nn.Module:
        return self.problem.build_model(seed).double()

    def change(self, tensor: Tensor) -> Tensor:
        return tensor.double()


class Rounded(Real):
    """Each number of each training batch is a neighbour, in single precision, of what it was."""

    def __init__(self, problem: Problem, steps: int, stream: int) -> None:
        super().__init__(problem, steps)
        self.random = torch.Generator().manual_seed(stream)

    def change(self, tensor: Tensor) -> Tensor:
        up = torch.rand(tensor.shape, generator=self.random) < 0.5
        return tensor.nextafter(torch.where(up, torch.inf, -torch.inf))


def real_trials(name: str, epochs: int) -> tuple[Problem, list[TrialConfig]]:
    """A built-in problem, and trials that weigh its tasks very differently."""
    problem = load_problem(name, {})
    problem.prepare()
    tasks = [task.name for task in problem.tasks]
    weights = [dict(zip(tasks, [0.02, 1.0, 3.0], strict=False)), dict(zip(tasks, [3.0, 1.0, 0.02], strict=False))]
    methods: list[tuple[str, dict[str, Any]]] = [("static", {"weights": w}) for w in weights]
    methods += [("gradnorm", {"recipe": recipe, "alpha": 0.5}) for recipe in ("paper", "direct")]
    return problem, [TrialConfig(name, {}, problem.data_hash(), *method, 0, epochs) for method in methods]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy", "census"])
def test_a_hundred_steps_of_a_real_problem_are_those_of_trials_alone(name: str) -> None:
    """In double precision: in single, rounding alone parts two runs by a percent within a hundred steps."""
    problem, configs = real_trials(name, 2)
    heard = train(configs, RealDouble(problem, 50))
    assert heard.whys == []
    for config in configs:
        expected, _ = alone(config, RealDouble(problem, 50))
        for column in columns(config):
            assert apart(heard.results[config.identity], expected, column, 100) < 1e-4, (config.method, column)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy", "census"])
def test_in_single_precision_a_real_problem_is_trained_to_within_rounding(name: str) -> None:
    """As users train: no further from trials alone than these are from each other when their batches are rounded.

    A cohort adds up in another order, which is a rounding or some of them a sum where the batches have one.
    """
    problem, configs = real_trials(name, 1)
    heard = train(configs, Real(problem, FEW))
    assert heard.whys == []
    for config in configs:
        expected, _ = alone(config, Real(problem, FEW))
        rounded = [alone(config, Rounded(problem, FEW, stream))[0] for stream in range(3)]
        for column in columns(config):
            growth = max(apart(one, expected, column, FEW) for one in rounded)
            found = apart(heard.results[config.identity], expected, column, FEW)
            assert found <= 30 * (growth + EPSILON), (config.method, column)


@pytest.mark.slow
def test_final_scores_are_within_seed_noise() -> None:
    """Over seeds, the metrics of trials trained at once differ from those alone by less than seeds do."""
    problem = load_problem("toy", {"train": 2000})
    metrics: dict[str, list[list[float]]] = {"at once": [], "alone": []}
    for seed in range(4):
        methods = [("equal", {}), ("gradnorm", {"recipe": "paper", "alpha": 0.5})]
        configs = [TrialConfig("toy", {}, problem.data_hash(), *method, seed, 4) for method in methods]  # type: ignore[arg-type]
        heard = train(configs, problem)
        metrics["at once"].append([v for c in configs for v in heard.results[c.identity].validation.values()])
        metrics["alone"].append([v for c in configs for v in alone(c, problem)[0].validation.values()])
    together, apart = np.array(metrics["at once"]), np.array(metrics["alone"])
    assert (np.abs(together - apart).max(axis=0) < 0.25 * apart.std(axis=0, ddof=1)).all()


# --- trials that go wrong


class Steep(Precise):
    """Diverges where the far task has a large weight."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.02)


STEEP: list[tuple[str, dict[str, Any]]] = [
    ("static", {"weights": {"near": 1.0, "far": 1e-3, "tiny": 1.0}}),
    ("static", {"weights": {"near": 1e-3, "far": 3.0, "tiny": 1e-3}}),
    ("static", {"weights": {"near": 1.0, "far": 2e-3, "tiny": 0.5}}),
]


def test_a_trial_that_diverges_is_reported_and_the_others_go_on() -> None:
    configs = cohort_of(*STEEP, epochs=12)
    heard = train(configs, Steep())
    assert [heard.results[config.identity].status for config in configs] == ["finished", "diverged", "finished"]
    for config in (configs[0], configs[2]):
        check_same(heard, config, Steep(), 3)
    expected, reports = alone(configs[1], Steep())
    found = heard.results[configs[1].identity]
    assert (found.error, found.steps, len(found.trajectory["w"])) == (
        expected.error,
        expected.steps,
        len(expected.trajectory["w"]),
    )
    assert len(heard.reports.get(configs[1].identity, [])) == len(reports)


class SpoilsOthers(Precise):
    """The near task alone makes the far loss infinite."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        grown = model.heads["far"].weight.norm() < 1e3 * losses["near"].detach()  # type: ignore[index]
        return losses | {"far": losses["far"] * torch.where(grown, torch.inf, 1.0)}


def test_a_single_task_trial_that_another_task_has_spoilt_is_trained_alone() -> None:
    configs = cohort_of(("single_task", {"task": "near"}), ("single_task", {"task": "tiny"}))
    heard = train(configs, SpoilsOthers())
    for config in configs:
        expected, _ = alone(config, SpoilsOthers())
        assert heard.results[config.identity].status == expected.status
        assert heard.results[config.identity].validation == pytest.approx(expected.validation, rel=1e-5)


class LosesMemory(Precise):
    """Has memory for so many networks at once."""

    most = 2

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self.optimizer = super().build_optimizer(model)
        return self.optimizer

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        trained = self.optimizer.param_groups[0]["params"][0]  # the weight of a layer, (K, n, m) where stacked
        if trained.dim() == 3 and len(trained) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().losses(model, batch)


def test_halves_are_tried_if_the_memory_is_too_small() -> None:
    configs = cohort_of(*ONE_OF_EACH[:4])
    heard = train(configs, LosesMemory())
    assert heard.whys == ["4: the memory is too small for 4 at once: trying half of them"]
    for config in configs:
        check_same(heard, config, Precise(), 2)


# --- what cannot be stacked


class Branching(Precise):
    """Asks a loss for its value."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        return {task: 2 * loss if float(loss.detach()) > 1e9 else loss for task, loss in losses.items()}


class Own(torch.optim.Adam):
    """Of the user's."""


class OwnOptimizer(Precise):
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return Own(model.parameters(), lr=0.02)


def clip(model: nn.Module) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)


class Clipped(Precise):
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        optimizer = super().build_optimizer(model)
        optimizer.register_step_pre_hook(lambda *_: clip(model))
        return optimizer


class Elsewhere(Precise):
    """Trains what is no parameter of the model."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam([*model.parameters(), nn.Parameter(torch.zeros(1))], lr=0.02)


class CountsCalls(Precise):
    """Its losses depend on the number of calls."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.step += 1
        return {task: loss * (1 + self.step) for task, loss in super().losses(model, batch).items()}


UNSTACKABLE = [
    (Branching, "its training step cannot be vectorised: RuntimeError: "),
    (OwnOptimizer, "its optimizer Own is none that is known to act on each number by itself"),
    (Clipped, "its optimizer has hooks before a step, which would see all networks as one"),
    (Elsewhere, "its optimizer trains what is no parameter of the model"),
    (CountsCalls, "its losses differ: trained at once, they are off by "),
]


@pytest.mark.parametrize(("kind", "why"), UNSTACKABLE)
def test_problems_that_cannot_be_stacked_are_detected(kind: type[Precise], why: str) -> None:
    configs = cohort_of(*ONE_OF_EACH[:2])
    with pytest.raises(NotStackable) as error:
        check_stackable(kind(), configs, CPU)
    assert str(error.value).startswith(why)


@pytest.mark.parametrize(("kind", "why"), UNSTACKABLE[:4])
def test_trials_that_cannot_be_stacked_are_trained_one_after_another(kind: type[Precise], why: str) -> None:
    configs = cohort_of(*ONE_OF_EACH[:2])
    heard = train(configs, kind())
    assert len(heard.whys) == 1
    assert heard.whys[0].startswith("2: ")
    for config in configs:
        check_same(heard, config, kind(), 1, close=1e-12)


@dataclass
class Examples:
    """A batch of a class of the user's."""

    x: Tensor
    y: dict[str, Tensor]

    def to(self, device: torch.device) -> Examples:
        return Examples(self.x.to(device), {task: y.to(device) for task, y in self.y.items()})


class OwnBatches(Precise):
    def loader(self, split: Any, seed: int) -> Any:
        return [Examples(x, y) for x, y in super().loader(split, seed)]

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return super().losses(model, (batch.x, batch.y))


@pytest.mark.parametrize("kind", [Small, Precise, Normed, Frozen, Labelled, OwnBatches])
def test_problems_that_can_be_stacked_are_detected_and_random_generators_stay(kind: type[Small]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_stackable(kind(), cohort_of(*ONE_OF_EACH), CPU)
    assert torch.equal(torch.rand(3), expected)


# --- checkpoints


class Interrupt(KeyboardInterrupt):
    """An exception that ends a process."""


class Breaks(Normed):
    """Is interrupted in a step."""

    at = 10**9

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if model.training and self.step + 1 == self.at:
            raise Interrupt
        return super().losses(model, batch)


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    return Storage(str(tmp_path / "checkpoints"))


def kept(storage: Storage, configs: list[TrialConfig]) -> list[Checkpoints]:
    return [Checkpoints(storage, config.identity, 0.0, len(configs)) for config in configs]


def interrupt(configs: list[TrialConfig], storage: Storage, at: int) -> None:
    problem = Breaks()
    problem.at = at
    with pytest.raises(Interrupt):
        train(configs, problem, kept(storage, configs))


@pytest.mark.parametrize("at", [3, BATCHES + 1, 2 * BATCHES + 5])
def test_an_interrupted_cohort_ends_as_an_undisturbed_one(at: int, storage: Storage) -> None:
    configs = cohort_of(*ONE_OF_EACH)
    interrupt(configs, storage, at)
    heard = train(configs, Normed(), kept(storage, configs))
    assert set(heard.steps.values()) == {at - 1}
    for config in configs:
        check_same(heard, config, Normed(), len(configs), resumed=at - 1)


def test_a_trial_of_an_interrupted_cohort_goes_on_alone_and_one_alone_in_a_cohort(storage: Storage) -> None:
    configs = cohort_of(*ONE_OF_EACH)
    interrupt(configs, storage, 6)
    heard = Heard()
    run_cohort(configs[::2], Normed(), CPU, heard, kept(storage, configs[::2]), together=False)
    for config in configs[::2]:
        check_same(heard, config, Normed(), 1, resumed=5)
    for config in configs[1::2]:
        problem = Breaks()
        problem.at = 10
        with pytest.raises(Interrupt):
            run_trial(config, problem, lambda _: None, CPU, Checkpoints(storage, config.identity, 0.0))
    heard = train(configs[1::2], Normed(), kept(storage, configs[1::2]))
    assert set(heard.steps.values()) == {5 + 9}
    for config in configs[1::2]:
        heard.results[config.identity].resumed = heard.results[config.identity].resumed[1:]
        check_same(heard, config, Normed(), len(configs[1::2]), resumed=14)


def test_a_cohort_killed_while_it_wrote_continues_from_the_common_step(storage: Storage) -> None:
    configs = cohort_of(*ONE_OF_EACH[:4])
    interrupt(configs, storage, 8)
    for config in configs[2:]:
        newest = max(storage.names(config.identity))
        storage.remove(f"{config.identity}/{newest}")
    heard = train(configs, Normed(), kept(storage, configs))
    assert set(heard.steps.values()) == {6}
    for config in configs:
        check_same(heard, config, Normed(), 4, resumed=6)


def test_trials_whose_checkpoints_are_apart_are_trained_apart(storage: Storage) -> None:
    configs = cohort_of(*ONE_OF_EACH[:4])
    interrupt(configs[:2], storage, 8)
    heard = train(configs, Normed(), kept(storage, configs))
    assert {heard.results[c.identity].together for c in configs} == {2}
    for config in configs[:2]:
        check_same(heard, config, Normed(), 2, resumed=7)
    for config in configs[2:]:
        check_same(heard, config, Normed(), 2)


def test_a_checkpoint_that_does_not_fit_is_an_alarm_and_a_right_result(storage: Storage) -> None:
    configs = cohort_of(*ONE_OF_EACH[:3])
    interrupt(configs, storage, 8)
    heard = train(configs, Precise(), kept(storage, configs))  # which has no norm
    for config in configs:
        (alarm,) = heard.results[config.identity].alarms
        assert alarm.startswith("began at the first step, since its checkpoint does not fit: ")
        heard.results[config.identity].alarms = []
        check_same(heard, config, Precise(), 1)
