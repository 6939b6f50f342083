"""One trial, on small problems: how it ends, what it reports, that it can be repeated."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpo.core.trial import EpochReport, TrialConfig
from hpo.problems.base import Problem, Split
from hpo.training.methods import METHODS, RECIPES
from tests.helpers.small_problem import BATCHES, SETTINGS, TASKS, Small, config, run

# --- identity


def test_identity_is_the_same_in_every_process_and_release() -> None:
    trial = TrialConfig("toy", {"functions": 2}, "abc", "gradnorm", {"recipe": "paper", "alpha": 0.5}, 3, 10, True)
    assert trial.identity == "e437053306ee7081"  # if this must change, raise IDENTITY_VERSION


def test_identity_does_not_depend_on_the_order_of_keys() -> None:
    one = TrialConfig("toy", {"a": 1, "b": 2}, "x", "static", {"weights": {"near": 1.0, "far": 2.0}}, 0, 1)
    two = TrialConfig("toy", {"b": 2, "a": 1}, "x", "static", {"weights": {"far": 2.0, "near": 1.0}}, 0, 1)
    assert one.identity == two.identity


@pytest.mark.parametrize(
    "change",
    [
        {"problem": "other"},
        {"arguments": {"preset": "full"}},
        {"data_hash": "other"},
        {"method": "gradnorm"},
        {"settings": {"recipe": "paper", "alpha": 0.6}},
        {"seed": 1},
        {"epochs": 2},
        {"test": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_identity_changes_with_every_field(change: dict[str, Any]) -> None:
    trial = config("equal", recipe="paper", alpha=0.5)
    assert replace(trial, **change).identity != trial.identity


# --- a trial that finishes


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_its_tasks(method: str) -> None:
    reports: list[EpochReport] = []
    result = run(config(method, **SETTINGS.get(method, {})), reports=reports)
    assert (result.status, result.error) == ("finished", "")
    assert result.averages["arithmetic"].keys() == set(TASKS)
    for task in ["far"] if method == "single_task" else TASKS:
        assert reports[-1].loss[task] < reports[0].loss[task], task


def test_what_a_trial_reports() -> None:
    reports: list[EpochReport] = []
    problem = Small()
    result = run(config("gradnorm", recipe="paper", alpha=1.0), problem, reports)
    assert [(report.epoch, report.epochs, report.steps) for report in reports] == [(1, 3, 8), (2, 3, 16), (3, 3, 24)]
    assert result.steps == 24
    assert 0 < reports[0].seconds < reports[1].seconds < reports[2].seconds == result.seconds
    assert reports[-1].validation == result.validation
    last = {name: result.trajectory[name][16:].mean(axis=0) for name in ("w", "G", "r", "L")}
    told = {"w": reports[-1].weights, "G": reports[-1].gradient_norms, "r": reports[-1].rates, "L": reports[-1].loss}
    for name, values in told.items():
        assert list(values) == list(TASKS)
        assert list(values.values()) == pytest.approx(last[name].tolist(), rel=1e-5)


def test_what_was_not_measured_is_left_out() -> None:
    reports: list[EpochReport] = []
    result = run(config("equal"), reports=reports)
    assert reports[0].gradient_norms == reports[0].rates == {}
    assert np.isnan(result.trajectory["G"]).all()


def test_the_trajectory_is_in_the_order_of_the_tasks() -> None:
    result = run(config("static", **SETTINGS["static"]))  # losses() returns them in reverse
    trajectory = result.trajectory
    assert trajectory["step"].tolist() == list(range(24))
    assert {name: trajectory[name].shape for name in "wGrL"} == dict.fromkeys("wGrL", (24, 3))
    assert list(result.initial_losses) == list(TASKS)
    assert trajectory["L"][0].tolist() == list(result.initial_losses.values())
    assert result.initial_losses["far"] > result.initial_losses["near"] > result.initial_losses["tiny"]
    assert trajectory["w"][5].tolist() == pytest.approx([0.5, 0.05, 2.45])


@pytest.mark.parametrize("recipe", ["paper", "robust"])
def test_averages_are_those_of_the_trajectory(recipe: str) -> None:
    result = run(config("gradnorm", recipe=recipe, alpha=1.0, learning_rate=0.1))
    w = result.trajectory["w"].astype(float)
    assert np.ptp(np.log(w), axis=0).max() > 0.1  # they did move
    expected = {
        "arithmetic": w.mean(axis=0),
        "geometric": np.exp(np.log(w).mean(axis=0)),
        "tail": w[12:].mean(axis=0),
        "geometric_tail": np.exp(np.log(w[12:]).mean(axis=0)),
    }
    for name, mean in expected.items():
        found = result.averages[name]
        assert list(found) == list(TASKS)
        assert sum(found.values()) == pytest.approx(3.0, rel=1e-6)
        assert list(found.values()) == pytest.approx((3 * mean / mean.sum()).tolist(), rel=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_trains(recipe: str) -> None:
    result = run(config("gradnorm", recipe=recipe, alpha=0.5))
    assert (result.status, result.error) == ("finished", "")
    assert np.ptp(result.trajectory["w"], axis=0).max() > 1e-3


def test_annealing_spans_the_run() -> None:
    moves = {}
    for recipe in ("robust", "annealed"):
        w = run(config("gradnorm", recipe=recipe, alpha=0.5, learning_rate=0.05)).trajectory["w"]
        moves[recipe] = np.abs(np.diff(np.log(w.astype(float)), axis=0)).max(axis=1)
    assert moves["annealed"][1] == pytest.approx(moves["robust"][1], rel=0.1)  # step 0 begins where it should be
    assert moves["annealed"][-1] < 0.25 * moves["annealed"][1]


def test_annealing_needs_to_know_the_length_of_the_run() -> None:
    class Endless:
        def __init__(self, batches: Iterable[Any]) -> None:
            self.batches = batches

        def __iter__(self) -> Iterator[Any]:
            return iter(self.batches)

    class Stream(Small):
        def loader(self, split: Split, seed: int) -> Any:
            return Endless(super().loader(split, seed))

    failed = run(config("gradnorm", recipe="annealed", alpha=0.5), Stream())
    assert failed.status == "failed"
    assert failed.error.startswith(
        "ValueError: recipe 'annealed' has to know the steps of a run: "
        "loader('train') should have a length. Found none."
    )
    assert run(config("gradnorm", recipe="robust", alpha=0.5), Stream()).status == "finished"


def test_a_problem_finds_the_epochs_of_the_trial() -> None:
    class Scheduled(Small):
        def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.SGD(model.parameters(), lr=1e-3 / self.epochs)

    def first(problem: Problem, epochs: int) -> list[float]:
        result = run(replace(config("equal"), epochs=epochs), problem)
        return result.trajectory["L"][1].tolist()

    problem = Scheduled()
    long, short = first(problem, 6), first(problem, 2)
    assert problem.epochs == 3
    problem.epochs = 6
    assert long == first(problem, 6) != short


def test_the_learning_rate_is_that_of_the_weights() -> None:
    slow = run(config("gradnorm", recipe="paper", alpha=0.5, learning_rate=0.001)).trajectory["w"]
    fast = run(config("gradnorm", recipe="paper", alpha=0.5, learning_rate=0.1)).trajectory["w"]
    assert slow[0].tolist() == fast[0].tolist() == [1.0, 1.0, 1.0]
    assert np.abs(slow[1] - 1).max() < 0.002 < 0.05 < np.abs(fast[1] - 1).max()


def test_frozen_weights_trained_as_static_weights_give_the_same_network() -> None:
    frozen = run(config("frozen", rule="loss"))
    inverse = {task: 1 / loss for task, loss in frozen.initial_losses.items()}
    weights = {task: 3 * value / sum(inverse.values()) for task, value in inverse.items()}
    assert frozen.averages["arithmetic"] == pytest.approx(weights, rel=1e-5)
    static = run(config("static", weights=weights))
    assert static.validation == pytest.approx(frozen.validation, rel=1e-4)


def test_equal_weights_are_the_static_point_of_ones() -> None:
    assert run(config("equal")).validation == run(config("static", weights=dict.fromkeys(TASKS, 1.0))).validation


def test_the_test_split_is_read_only_when_asked_for() -> None:
    problem = Small()
    assert run(config(), problem).test == {}
    assert set(problem.read) == {"train", "val"}
    result = run(config(test=True), problem)
    assert list(result.test) == list(TASKS)
    assert result.test != result.validation
    assert problem.read.count("test") == 1


class NoTrain(Small):
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        if split == "train":
            raise KeyError("train")
        return super().evaluate(model, split)


def test_the_training_split_is_evaluated_where_the_test_split_is() -> None:
    assert run(config()).train == {}
    result = run(config(test=True))
    assert list(result.train) == list(TASKS)
    assert result.train not in (result.test, result.validation)


def test_a_problem_that_cannot_evaluate_its_training_split_only_lacks_the_gap() -> None:
    result = run(config(test=True), NoTrain())
    assert (result.status, result.train) == ("finished", {})
    assert result.alarms == ["no gap of train and test, since evaluate(model, 'train') raised: KeyError: 'train'"]
    assert result.test == run(config(test=True)).test


def test_a_first_loss_unlike_the_first_epoch_is_an_alarm_of_gradnorm_alone() -> None:
    class Spiked(Small):
        steps = 0

        def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
            self.steps += 1
            losses = super().losses(model, batch)
            return losses | {"far": losses["far"] * (200 if self.steps == 1 else 1)}

    (said,) = (alarm for alarm in run(config("gradnorm", **SETTINGS["gradnorm"]), Spiked()).alarms if "L(0)" in alarm)
    assert said.startswith("L(0) of far is ")
    assert not any("L(0)" in alarm for alarm in run(config("equal"), Spiked()).alarms)


def test_an_epoch_ends_for_methods_that_count_in_them() -> None:
    weights = run(config("dwa")).trajectory["w"]
    assert np.array_equal(weights[: 2 * BATCHES], np.ones_like(weights[: 2 * BATCHES]))
    assert not np.array_equal(weights[2 * BATCHES], np.ones(3))


@pytest.mark.parametrize("method", ["gradnorm", "uncertainty", "random", "famo", "pcgrad"])
def test_the_same_config_gives_the_same_bits(method: str) -> None:
    trial = config(method, test=True, **SETTINGS.get(method, {}))
    one = run(trial)
    run(config("equal", seed=5))  # another trial in the same process
    two = run(trial)
    assert (one.validation, one.test, one.averages) == (two.validation, two.test, two.averages)
    for name in "wGrL":
        assert np.array_equal(one.trajectory[name], two.trajectory[name], equal_nan=True)
    assert run(replace(trial, seed=1)).validation != one.validation


class Modes(Small):
    """Notes whether the network is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: dict[str, set[bool]] = {"losses": set(), "evaluate": set()}

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.modes["losses"].add(model.training)
        return super().losses(model, batch)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        self.modes["evaluate"].add(model.training or torch.is_grad_enabled())
        return super().evaluate(model, split)


def test_training_and_evaluation_mode() -> None:
    problem = Modes()
    run(config(test=True), problem)
    assert problem.modes == {"losses": {True}, "evaluate": {False}}


class Augmented(Small):
    """Draws from the generators of Python and numpy, as data augmentation often does."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return super().losses(model, (x + random.gauss(0, 0.1) + np.random.normal(0, 0.1), y))


def test_every_global_generator_is_seeded() -> None:
    assert run(config(), Augmented()).validation == run(config(), Augmented()).validation


# --- a trial that does not


class Nan(Small):
    """One task's loss or metric is NaN from some step or evaluation on."""

    def __init__(self, task: str = "far", loss_from: float = math.inf, metric_from: float = math.inf) -> None:
        super().__init__()
        self.task, self.loss_from, self.metric_from, self.evaluations = task, loss_from, metric_from, 0

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        return losses | ({self.task: losses[self.task] + math.nan} if self.step > self.loss_from else {})

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        self.evaluations += 1
        bad = {self.task: math.nan} if self.evaluations > self.metric_from else {}
        return super().evaluate(model, split) | bad


def test_a_loss_that_is_nan_from_the_first_step() -> None:
    result = run(config("gradnorm", recipe="paper", alpha=0.5), Nan(loss_from=0))
    assert (result.status, result.steps) == ("diverged", 8)  # it might have been absent from the first steps
    assert result.error == "the training loss is not finite after 8 steps: far = nan"
    assert result.averages == result.validation == {}


@pytest.mark.parametrize("method", ["equal", "gradnorm"])
def test_a_loss_that_turns_nan(method: str) -> None:
    reports: list[EpochReport] = []
    result = run(config(method, **SETTINGS[method]), Nan(loss_from=10), reports)
    assert (result.status, result.steps, len(reports)) == ("diverged", 24, 2)  # no step of the third epoch has it
    assert result.error.startswith("the training loss is not finite after 24 steps: ")
    assert "far = nan" in result.error
    assert result.averages == {}
    assert np.isfinite(result.trajectory["L"][:10]).all()
    assert np.isnan(result.trajectory["L"][10:, 1]).all()


def test_a_metric_that_turns_nan() -> None:
    result = run(config(), Nan(metric_from=1))
    assert (result.status, result.steps) == ("diverged", 16)
    assert result.error == "the metric on val is not finite after 16 steps: far = nan"
    result = run(config(test=True), Nan(metric_from=3))
    assert (result.status, result.error) == ("diverged", "the metric on test is not finite after 24 steps: far = nan")


@pytest.mark.parametrize("where", ["loss_from", "metric_from"])
def test_a_single_task_trial_ignores_the_other_tasks(where: str) -> None:
    others = run(config("single_task", test=True, task="near"), Nan(**{where: 0}))
    assert others.status == "finished"
    assert math.isfinite(others.validation["near"])
    assert others.averages["geometric"] == {"near": 1.0, "far": 0.0, "tiny": 0.0}
    its_own = run(config("single_task", test=True, task="far"), Nan(**{where: 0}))
    assert its_own.status == "diverged"


class Raises(Small):
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if self.step == 5:
            raise KeyError("column `age` is gone")
        return super().losses(model, batch)


class LacksLoss(Small):
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        del losses["far"]
        return losses


def test_a_task_absent_from_a_whole_epoch_is_reported() -> None:
    result = run(config(), LacksLoss())
    assert (result.status, result.error) == ("diverged", "the training loss is not finite after 8 steps: far = nan")


class Sparse(Small):
    """Its second task has no label in the first batch and in every other one."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        self.seen = getattr(self, "seen", -1) + 1
        losses = super().losses(model, batch)
        return losses if self.seen % 2 else {task: loss for task, loss in losses.items() if task != "far"}


@pytest.mark.parametrize("method", ["equal", "gradnorm"])
def test_a_task_may_be_absent_from_steps(method: str) -> None:
    result = run(config(method, **SETTINGS[method]), Sparse())
    assert result.status == "finished"
    L = result.trajectory["L"]
    assert np.isnan(L[::2, 1]).all()
    assert np.isfinite(L[1::2]).all()
    assert result.initial_losses["far"] == 0
    w = result.trajectory["w"]
    if method == "gradnorm":
        assert np.array_equal(w[2:-1:2, 1], w[3::2, 1])  # it keeps its weight in the steps without it
        assert not np.array_equal(w[1:-2:2, 1], w[3::2, 1])


class VectorLoss(Small):
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return super().losses(model, batch) | {"far": torch.zeros(2, requires_grad=True)}


class LacksMetric(Small):
    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return {"near": 1.0, "far": 2.0}


class NoBatch(Small):
    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        return []


class OneShot(Small):
    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        return iter(super().loader(split, seed))


@pytest.mark.parametrize(
    ("problem", "steps", "line"),
    [
        (Raises, 5, "KeyError: 'column `age` is gone'"),
        (VectorLoss, 0, "ValueError: losses['far']: expected a scalar tensor, got the shape (2,)"),
        (LacksMetric, 8, "ValueError: evaluate(): expected a metric for each of ['near', 'far', 'tiny'], got "),
        (NoBatch, 0, "ValueError: loader('train'): expected an iterable that gives batches"),
        (OneShot, 8, "ValueError: loader('train'): expected an iterable that gives batches"),
    ],
)
def test_a_fault_of_the_problem_is_a_failed_trial(problem: type[Small], steps: int, line: str) -> None:
    result = run(config(), problem())
    assert (result.status, result.steps) == ("failed", steps)
    first, _, trace = result.error.partition("\n\n")
    assert first.startswith(line)
    assert trace.startswith("Traceback")
    assert result.averages == {}


def test_the_user_can_stop_a_trial() -> None:
    class Interrupted(Small):
        def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(), Interrupted())


def test_what_the_balancer_warns_of_becomes_an_alarm() -> None:
    result = run(config("gradnorm", recipe="paper", alpha=0.5, learning_rate=5.0))
    assert result.status == "finished"
    assert [alarm for alarm in result.alarms if "floor" in alarm]
    assert run(config()).alarms == []
