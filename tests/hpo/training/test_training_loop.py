"""The training loop gives the same with either engine, for one trial and for several."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hpo.training.checkpoints
from hpo.core.storage import Storage
from hpo.core.trial import TrialConfig
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem, Split
from hpo.training.checkpoints import Checkpoints
from hpo.training.cohort import run_cohort
from hpo.training.engines import EngineFactory
from hpo.training.members import Member
from hpo.training.single_engine import SingleEngine
from hpo.training.stacked_engine import StackedEngine
from hpo.training.training_loop import TrainingLoop
from hpo.training.trial import run_trial
from tests.helpers.cohorts import CPU, ONE_OF_EACH, Heard, Normed, Precise, check_same, cohort_of, train
from tests.helpers.small_problem import BATCHES

ENGINES: dict[str, EngineFactory] = {"single": SingleEngine, "stacked": StackedEngine}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    return Storage(str(tmp_path / "checkpoints"))


def kept(storage: Storage, configs: list[TrialConfig]) -> list[Checkpoints]:
    return [Checkpoints(storage, config.identity, 0.0, len(configs)) for config in configs]


class Interrupt(KeyboardInterrupt):
    """An exception that ends a process."""


class Breaks(Normed):
    """Is interrupted before a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if self.step + 1 == self.at:
            raise Interrupt
        return super().losses(model, batch)


# --- an engine of one trial


def loop_of_one(config: TrialConfig, engine: str, problem: Problem, checkpoints: Checkpoints | None = None) -> Heard:
    heard, boundary = Heard(), Boundary()
    member = Member(config, checkpoints, config.epochs, checkpoints.latest() if checkpoints else None)
    loop = TrainingLoop([member], problem, CPU, ENGINES[engine], heard, boundary)
    loop.run()
    loop.close([])
    return heard


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("place", range(0, len(ONE_OF_EACH), 3))
def test_one_trial_ends_alike_with_either_engine(engine: str, place: int) -> None:
    (config,) = cohort_of(ONE_OF_EACH[place])
    check_same(loop_of_one(config, engine, Normed()), config, Normed(), 1)


@pytest.mark.parametrize("second", ENGINES)
@pytest.mark.parametrize("first", ENGINES)
def test_a_checkpoint_of_either_engine_serves_the_other(first: str, second: str, storage: Storage) -> None:
    (config,) = cohort_of(ONE_OF_EACH[-1])
    with pytest.raises(Interrupt):
        loop_of_one(config, first, Breaks(BATCHES + 4), kept(storage, [config])[0])
    heard = loop_of_one(config, second, Normed(), kept(storage, [config])[0])
    check_same(heard, config, Normed(), 1, resumed=BATCHES + 3)


def form(part: Any) -> Any:
    """The structure of a checkpoint without its numbers; of tensors also the bytes that a file holds for them."""
    if isinstance(part, Tensor):
        return part.dtype, tuple(part.shape), part.untyped_storage().nbytes()
    if isinstance(part, dict):
        return {name: form(value) for name, value in part.items()}
    return [form(value) for value in part] if isinstance(part, list) else type(part)


def test_a_checkpoint_has_the_same_form_alone_and_in_a_cohort(storage: Storage, tmp_path: Path) -> None:
    configs, other = cohort_of(*ONE_OF_EACH), Storage(str(tmp_path / "other"))
    at = BATCHES + 4
    with pytest.raises(Interrupt):
        run_cohort(configs, Breaks(at), CPU, Heard(), kept(storage, configs))
    for config, own, joint in zip(configs, kept(other, configs), kept(storage, configs), strict=True):
        with pytest.raises(Interrupt):
            run_trial(config, Breaks(at), lambda _: None, CPU, own)
        alone, together = own.latest(), joint.latest()
        assert alone is not None
        assert list(alone) == ["model", "optimizer", "balancer", "order", *list(alone)[4:]]
        assert form(alone["records"]) == {
            "blocks": [(torch.float64, (BATCHES, 4, 3), BATCHES * 4 * 3 * 8)],
            "rows": [(torch.float64, (3, 4, 3), 3 * 4 * 3 * 8)],
        }
        if config.method == "single_task":  # alone, Adam has no state of the heads that it leaves out
            del alone["optimizer"], together["optimizer"]  # type: ignore[index]
        assert form(together) == form(alone)


# --- random generators of a cohort


class DrawsInEvaluation(Precise):
    """Adds what the generators give to its metrics."""

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        noise = random.random() + float(torch.rand(()))
        return {task: noise + value for task, value in super().evaluate(model, split).items()}


def test_each_trial_of_a_cohort_is_evaluated_with_the_generators_as_alone() -> None:
    configs = cohort_of(*ONE_OF_EACH[:4])
    heard = train(configs, DrawsInEvaluation())
    assert heard.whys == []
    for config in configs:
        check_same(heard, config, DrawsInEvaluation(), 4)


class SpoilsNeglected(Precise):
    """From the third epoch on a far loss that was not trained down is infinite."""

    limit = 690.0

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        if self.step > 2 * BATCHES:
            losses["far"] = losses["far"] * torch.where(losses["far"].detach() > self.limit, torch.inf, 1.0)
        return losses


def test_a_trial_that_is_trained_again_alone_leaves_the_others_of_its_cohort_as_they_are() -> None:
    weights = {"near": 0.5, "far": 2.0, "tiny": 0.5}
    methods: list[tuple[str, dict[str, Any]]] = [("equal", {}), ("static", {"weights": weights})]
    configs = cohort_of(("single_task", {"task": "near"}), *methods, epochs=5)
    heard = train(configs, SpoilsNeglected())
    assert heard.whys == []
    told = heard.reports[configs[0].identity]
    assert [report.epoch for report in told] == [1, 2, 1, 2, 3, 4, 5]
    del told[:2]
    check_same(heard, configs[0], SpoilsNeglected(), 1, close=1e-12)
    for config in configs[1:]:
        check_same(heard, config, SpoilsNeglected(), 3)


# --- a cohort of which nothing is left


class Steep(Precise):
    """Diverges where the far task has a large weight."""

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.02)


def test_a_cohort_that_has_diverged_before_its_pause_is_over(storage: Storage) -> None:
    weights = [{"near": 1e-3, "far": far, "tiny": 3.0 - far} for far in (2.9, 2.95)]
    configs = cohort_of(*(("static", {"weights": own}) for own in weights), epochs=12)
    heard = Heard()
    run_cohort(configs, Steep(), CPU, heard, kept(storage, configs), until=[11, 11])
    assert [heard.results[config.identity].status for config in configs] == ["diverged", "diverged"]
    assert heard.whys == []
