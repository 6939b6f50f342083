"""Problems that name no shared layer: it is found at the start of a trial, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hpo.core.storage import Storage
from hpo.core.trial import TrialResult
from hpo.problems.base import Problem
from hpo.training.checkpoints import Checkpoints
from hpo.training.found_layer import found_names, shared_layer_of
from hpo.training.parts import Parts
from hpo.training.trial import run_trial
from tests.helpers.cohorts import Normed, cohort_of, train
from tests.helpers.small_problem import SETTINGS, Small, config, run

CPU = torch.device("cpu")


class Unnamed(Small):
    shared_layer = Problem.shared_layer


class UnnamedAndNormed(Normed):
    shared_layer = Problem.shared_layer


class Wordy(Small):
    def shared_layer(self, model: nn.Module) -> Any:
        return "trunk"


class InTurn(Unnamed):
    """Each batch has the labels of one task."""

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        task = list(losses)[self.step % 3]
        return {task: losses[task]}


class UnnamedInBfloat16(Unnamed):
    autocast = torch.bfloat16

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        assert torch.is_autocast_enabled("cpu")
        return super().losses(model, batch)


class NeverFar(Unnamed):
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        return losses | {"far": losses["far"] * 0}


class Apart(Unnamed):
    """Networks that share nothing."""

    def build_model(self, seed: int) -> nn.Module:
        return nn.ModuleDict({task.name: nn.Linear(4, 1) for task in self.tasks})

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        return {task: (net(x)[:, 0] - y[task]).square().mean() for task, net in model.items()}


class Interrupted(KeyboardInterrupt):
    pass


class Breaks(Unnamed):
    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        if self.step == 11:
            raise Interrupted
        return super().losses(model, batch)


def bits(result: TrialResult) -> str:
    arrays = {name: array.tobytes() for name, array in result.trajectory.items()}
    return repr((replace(result, seconds=0.0, resumed=[], trajectory={}), arrays))


@pytest.mark.parametrize("method", ["gradnorm", "frozen", "equal"])
def test_a_trial_is_the_same_as_with_the_layer_named(method: str) -> None:
    trial = config(method, **SETTINGS[method])
    assert bits(run(trial, Unnamed())) == bits(run(trial, Small()))


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_as_without_the_search(seed: int) -> None:
    named, found = (Parts.build(problem, seed, CPU) for problem in (Normed(), UnnamedAndNormed()))
    for one, other in zip(named.model.state_dict().values(), found.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert found.shared == [found.model.trunk]


def test_the_random_generators_stay() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert found_names(Unnamed(), 0, CPU) == ["trunk"]
    assert torch.equal(torch.get_rng_state(), before)


def test_cohorts_find_the_same_layer() -> None:
    configs = cohort_of(("gradnorm", SETTINGS["gradnorm"]), ("frozen", SETTINGS["frozen"]))
    named, found = train(configs, Normed()), train(configs, UnnamedAndNormed())
    assert found.whys == named.whys == []
    for trial in configs:
        assert bits(found.results[trial.identity]) == bits(named.results[trial.identity])


def test_a_trial_that_is_resumed_has_the_same_layer(tmp_path: Any) -> None:
    trial, storage = config("gradnorm", **SETTINGS["gradnorm"]), Storage(str(tmp_path))
    with pytest.raises(Interrupted):
        run_trial(trial, Breaks(), str, CPU, Checkpoints(storage, trial.identity, 0.0))
    problem, resumed = Unnamed(), list[int]()
    result = run_trial(trial, problem, str, CPU, Checkpoints(storage, trial.identity, 0.0), resumed.append)
    assert resumed
    assert bits(result) == bits(run(trial, Small()))


def test_tasks_may_be_in_batches_of_their_own() -> None:
    assert found_names(InTurn(), 0, CPU) == ["trunk"]


def test_it_is_found_in_the_precision_of_the_problem() -> None:
    assert found_names(UnnamedInBfloat16(), 0, CPU) == ["trunk"]


@pytest.mark.parametrize(
    ("problem", "match"),
    [
        (NeverFar(), "reaches a weight in the first 8 batches, got none of far"),
        (Apart(), "got none that both `near` and `far` reach"),
    ],
)
def test_what_is_not_found_fails_the_trial_with_the_reason(problem: Problem, match: str) -> None:
    with pytest.raises(ValueError, match=f"is left out, and no shared layer was found. .*{match}"):
        found_names(problem, 0, CPU)
    result = run(config("gradnorm", **SETTINGS["gradnorm"]), problem)
    assert result.status.value == "failed"
    assert match.replace("`", "") in result.error.replace("`", "")


def test_a_name_is_no_layer() -> None:
    with pytest.raises(ValueError, match="a list of these, or 'auto'"):
        shared_layer_of(Wordy(), nn.Linear(2, 2), 0, CPU)
