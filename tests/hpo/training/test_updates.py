"""Schedules, clipping, autocast and several optimizers: alone, in a cohort and after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import hpo.training.checkpoints
from hpo.core.errors import ProblemError
from hpo.core.storage import Storage
from hpo.core.trial import TrialConfig
from hpo.problems import load_problem
from hpo.training.checkpoints import Checkpoints
from hpo.training.stacking_check import check_stackable
from hpo.training.trial import run_trial
from hpo.training.updates import Updates, clip_each
from tests.helpers.cohorts import CPU, ONE_OF_EACH, Normed, Precise, alone, check_same, cohort_of, train
from tests.helpers.small_problem import BATCHES, Small

RATE = 0.02


class Interrupt(KeyboardInterrupt):
    """Exception that ends a process."""


class Watched(Normed):
    """Writes down the learning rate of each step; is interrupted in one if told so."""

    at = 10**9

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def build_optimizer(self, model: nn.Module) -> Any:
        self.optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        return self.optimizer, self.schedule(self.optimizer)

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.ExponentialLR(optimizer, 0.5)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if model.training:
            if self.step + 1 == self.at:
                raise Interrupt
            self.rates.append(self.optimizer.param_groups[0]["lr"])
        return super().losses(model, batch)


class PerEpoch(Watched):
    """Halves its learning rate after each epoch."""


class PerStep(Watched):
    """Warms up, then falls along a cosine over the whole trial, step by step; its gradients are clipped."""

    schedule_per = "step"
    clip_norm = 0.5

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, self.epochs * BATCHES - 4)
        return lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [4])


class Cycle(Watched):
    """Ends with the trial, and moves the momentum too."""

    schedule_per = "step"

    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=self.epochs * BATCHES)


class Halves:
    """A schedule of the user's own, with the three methods that it needs."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer, self.count = optimizer, 0

    def step(self) -> None:
        self.count += 1
        self.optimizer.param_groups[0]["lr"] = RATE / (1 + self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


class OwnSchedule(Watched):
    def schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        return Halves(optimizer)


class Several(Watched):
    """The trunk has another optimizer than the heads, with a schedule."""

    def build_optimizer(self, model: Any) -> Any:
        self.optimizer = torch.optim.SGD([*model.trunk.parameters(), *model.norm.parameters()], lr=RATE, momentum=0.9)
        heads = torch.optim.Adam(model.heads.parameters(), lr=RATE)
        return [(self.optimizer, self.schedule(self.optimizer)), heads]


KINDS = [PerEpoch, PerStep, Cycle, OwnSchedule, Several]
TOGETHER = [PerEpoch, PerStep, Cycle]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    return Storage(str(tmp_path / "checkpoints"))


def kept(storage: Storage, configs: list[TrialConfig]) -> list[Checkpoints]:
    return [Checkpoints(storage, config.identity, 0.0, len(configs)) for config in configs]


def interrupted(kind: type[Watched], at: int) -> Watched:
    problem = kind()
    problem.at = at
    return problem


class TestASchedule:
    def test_steps_after_each_epoch_by_default(self):
        problem = PerEpoch()
        alone(cohort_of(("equal", {}))[0], problem)
        assert problem.rates == [RATE] * BATCHES + [RATE / 2] * BATCHES + [RATE / 4] * BATCHES

    def test_steps_after_each_step_if_the_problem_says_so(self):
        problem = PerStep()
        alone(cohort_of(("equal", {}))[0], problem)
        assert problem.rates[:5] == pytest.approx([RATE * f for f in (0.1, 0.325, 0.55, 0.775, 1)])
        assert problem.rates[5:] == sorted(problem.rates[5:], reverse=True)
        assert problem.rates[-1] < RATE / 50

    @pytest.mark.parametrize("kind", TOGETHER)
    def test_is_that_of_a_trial_alone_in_a_cohort(self, kind):
        configs, problem = cohort_of(*ONE_OF_EACH[:3], ONE_OF_EACH[-1]), kind()
        check_stackable(kind(), configs, CPU)
        heard = train(configs, problem)
        assert heard.whys == []
        for config in configs:
            check_same(heard, config, kind(), len(configs))
        by_itself = kind()
        alone(configs[0], by_itself)
        assert problem.rates == by_itself.rates

    @pytest.mark.parametrize(
        ("kind", "why"),
        [(OwnSchedule, "its schedule Halves is none of torch's"), (Several, "it has several optimizers")],
    )
    def test_that_cannot_be_shared_by_a_cohort_is_trained_one_trial_at_a_time(self, kind, why):
        configs = cohort_of(*ONE_OF_EACH[:2])
        heard = train(configs, kind())
        assert heard.whys == [f"2: {why}"]
        for config in configs:
            check_same(heard, config, kind(), 1, close=1e-12)


class TestAnInterruptedTrial:
    @pytest.mark.parametrize("at", [3, BATCHES + 1, 2 * BATCHES + 5])
    @pytest.mark.parametrize("kind", KINDS)
    def test_goes_on_bit_for_bit(self, kind, at, storage):
        (config,) = cohort_of(ONE_OF_EACH[-1])
        whole = kind()
        expected, _ = alone(config, whole)
        with pytest.raises(Interrupt):
            run_trial(config, interrupted(kind, at), lambda _: None, CPU, kept(storage, [config])[0])
        rest = kind()
        found = run_trial(config, rest, lambda _: None, CPU, kept(storage, [config])[0])
        assert (found.resumed, found.alarms) == ([at - 1], expected.alarms)
        assert rest.rates == whole.rates[at - 1 :]
        assert (found.validation, found.test, found.averages) == (
            expected.validation,
            expected.test,
            expected.averages,
        )
        assert all(found.trajectory[name].tobytes() == expected.trajectory[name].tobytes() for name in "wGrL")

    def test_goes_on_in_a_cohort_and_from_one(self, storage):
        configs, at = cohort_of(*ONE_OF_EACH[:2], ONE_OF_EACH[-1]), BATCHES + 4
        with pytest.raises(Interrupt):
            train(configs, interrupted(PerStep, at), kept(storage, configs))
        heard = train(configs[:2], PerStep(), kept(storage, configs)[:2])
        for config in configs[:2]:
            check_same(heard, config, PerStep(), 2, resumed=at - 1)
        heard = train(configs[2:], PerStep(), kept(storage, configs)[2:])
        check_same(heard, configs[2], PerStep(), 1, resumed=at - 1)

    @pytest.mark.parametrize(("before", "after"), [(Normed, PerEpoch), (PerEpoch, Normed)])
    def test_begins_anew_where_the_schedule_came_or_went_since(self, before, after, storage):
        (config,) = cohort_of(("equal", {}), test=False, epochs=1)
        stopped = before()
        run_trial(config, stopped, lambda _: None, CPU, kept(storage, [config])[0])
        found = run_trial(config, after(), lambda _: None, CPU, kept(storage, [config])[0])
        assert (found.status, found.resumed) == ("finished", [])
        assert found.alarms[0].startswith("began at the first step, since its checkpoint does not fit: ")


class Loud(Precise):
    """Its gradients are clipped, in some steps."""

    clip_norm = 500.0


class Measured(Loud):
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        self.trained = model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
        optimizer.register_step_post_hook(lambda *_: self.norms.append(self.norm()))
        return optimizer

    def __init__(self) -> None:
        super().__init__()
        self.norms: list[float] = []

    def norm(self) -> float:
        gradients = [value.grad for value in self.trained.parameters() if value.grad is not None]
        return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


class TestClipping:
    def test_scales_the_whole_gradient_down_to_the_norm_and_never_up(self):
        problem = Measured()
        alone(cohort_of(("equal", {}))[0], problem)
        assert max(problem.norms) == pytest.approx(Loud.clip_norm, rel=1e-4)
        assert min(problem.norms) < 0.9 * Loud.clip_norm

    def test_is_of_each_trial_by_itself_in_a_cohort(self):
        configs = cohort_of(*ONE_OF_EACH)
        check_stackable(Loud(), configs, CPU)
        heard = train(configs, Loud())
        assert heard.whys == []
        for config in configs:
            check_same(heard, config, Loud(), len(configs))

    def test_of_stacked_gradients_is_torchs_for_each(self):
        generator = torch.Generator().manual_seed(0)
        shapes = [(5, 3), (3,), (), (2, 2, 2)]
        factors = torch.tensor([0.01, 1.0, 100.0, torch.nan])
        stacked = [nn.Parameter(torch.zeros(4, *shape)) for shape in shapes]
        for value in stacked:
            noise = torch.randn(value.shape, generator=generator)
            value.grad = noise * factors.view(-1, *[1] * (value.dim() - 1))
        apart = [[nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(4)]
        for k, values in enumerate(apart):
            for value, whole in zip(values, stacked, strict=True):
                value.grad = whole.grad[k].clone()
            nn.utils.clip_grad_norm_(values, 1.0)
        clip_each([*stacked, nn.Parameter(torch.zeros(4))], 1.0)
        for k, values in enumerate(apart):
            for value, whole in zip(values, stacked, strict=True):
                torch.testing.assert_close(whole.grad[k], value.grad, equal_nan=True)


class Cast(Small):
    """Writes down in which types it is called."""

    autocast = torch.bfloat16

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, torch.dtype]] = set()

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        self.seen.add((model.training, model.trunk(batch[0]).dtype))
        return super().losses(model, batch)

    def evaluate(self, model: Any, split: Any) -> dict[str, float]:
        self.seen.add((model.training, model.trunk(torch.ones(1, 4)).dtype))
        return super().evaluate(model, split)


class TestAutocast:
    def test_holds_in_losses_and_in_evaluate_and_trains_one_trial_at_a_time(self):
        configs, problem = cohort_of(*ONE_OF_EACH[:2]), Cast()
        heard = train(configs, problem)
        assert heard.whys == ["2: it has autocast on, which vmap leaves out in some layers"]
        assert {result.status for result in heard.results.values()} == {"finished"}
        assert problem.seen == {(True, torch.bfloat16), (False, torch.bfloat16)}

    def test_is_off_by_default(self):
        class Uncast(Cast):
            autocast = None

        problem = Uncast()
        alone(cohort_of(("equal", {}))[0], problem)
        assert problem.seen == {(True, torch.float32), (False, torch.float32)}


class Metric:
    """A schedule that wants the epoch, as timm's."""

    def step(self, epoch: int) -> None:
        del epoch

    state_dict = load_state_dict = dict


class Ascent(torch.optim.SGD):
    """Steps twice, as SAM."""

    def step(self, closure: Any) -> Any:
        return super().step(closure)


def built(make: Any) -> Any:
    class Asked(Small):
        def build_optimizer(self, model: nn.Module) -> Any:
            return make(torch.optim.SGD(model.parameters(), lr=0.1), model)

    return Asked()


REFUSED = {
    "LBFGS": (
        lambda _, model: torch.optim.LBFGS(model.parameters()),
        "build_optimizer: expected an optimizer whose step() takes no closure, such as Adam, got LBFGS, which",
    ),
    "a closure": (
        lambda _, model: Ascent(model.parameters(), lr=0.1),
        "build_optimizer: expected an optimizer whose step() takes no closure, such as Adam, got Ascent, which",
    ),
    "ReduceLROnPlateau": (
        lambda optimizer, _: (optimizer, lr_scheduler.ReduceLROnPlateau(optimizer)),
        "build_optimizer: expected a schedule that depends on the number of steps or epochs alone, so that all arms "
        "have the same, got ReduceLROnPlateau, whose step() needs a metric",
    ),
    "a schedule that wants more": (
        lambda optimizer, _: (optimizer, Metric()),
        "build_optimizer: expected a schedule that depends on the number of steps or epochs alone, so that all arms "
        "have the same, got Metric, whose step() needs epoch",
    ),
    "no schedule": (
        lambda optimizer, _: (optimizer, 0.1),
        "build_optimizer: expected a schedule with step, state_dict, load_state_dict, got float",
    ),
    "two optimizers in a tuple": (
        lambda optimizer, _: (optimizer, optimizer),
        "build_optimizer: expected (optimizer, schedule), or a list of several optimizers, got a tuple with SGD in",
    ),
    "Lightning's dictionary": (
        lambda optimizer, _: {"optimizer": optimizer},
        "build_optimizer: expected a torch.optim.Optimizer, (optimizer, schedule), or a list of these, got dict",
    ),
    "nothing": (lambda *_: [], "build_optimizer: expected an optimizer, got an empty list"),
}


@pytest.mark.parametrize(("make", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_stepped_is_refused_in_one_line(make: Any, line: str) -> None:
    problem = built(make)
    with pytest.raises(ProblemError) as error:
        Updates(problem, problem.build_model(0))
    assert str(error.value).startswith(line)
    result, _ = alone(cohort_of(("equal", {}))[0], problem)
    assert (result.status, result.steps) == ("failed", 0)
    assert result.error.startswith(f"ProblemError: {line}")


@pytest.mark.parametrize(
    ("setting", "value", "line"),
    [
        ("schedule_per", "batch", "expected 'epoch', 'step', got 'batch'"),
        ("clip_norm", 0, "expected a finite number > 0, got 0"),
        ("autocast", torch.float16, "expected None or torch.bfloat16, got torch.float16"),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused_when_the_problem_is_loaded(
    setting: str, value: Any, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Small, setting, value, raising=False)
    name = "tests.helpers.small_problem:Small"
    with pytest.raises(ProblemError) as error:
        load_problem(name, {})
    assert str(error.value) == f"{setting} of problem {name!r}: {line}"
