"""The parts of a training run: network, shared layer, optimizer, data; and its evaluation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from balancers import Balancer
from balancers.shared_layer import Shared
from hpo.core.text import one_line
from hpo.core.trial import EpochMetrics, TrialConfig, TrialResult
from hpo.core.user_calls import is_interrupt
from hpo.problems.base import Problem
from hpo.training.autocast import autocast
from hpo.training.found_layer import shared_layer_of
from hpo.training.global_state import as_found
from hpo.training.methods import OVER_THE_RUN, build_balancer
from hpo.training.recorder import TrialRecorder
from hpo.training.resumable_loader import DataOrder, read_state, seed_all, set_state
from hpo.training.updates import Updates


def of_length(problem: Problem, epochs: int) -> Problem:
    """The problem as a run of so many epochs sees it; the one handed in, which other trials share, stays as it is."""
    if problem.epochs == epochs:
        return problem
    own = copy.copy(problem)
    own.epochs = epochs
    return own


@dataclass
class Parts:
    """The parts of a trial of a problem, except its balancer.

    Attributes:
        model: on the device.
        shared: W.
        updates: the optimizers of the model.
        loader: of the training batches.
        order: goes through them.
    """

    model: nn.Module
    shared: Shared
    updates: Updates
    loader: Any
    order: DataOrder

    @classmethod
    def build(cls, problem: Problem, seed: int, device: torch.device) -> Parts:
        """Seed everything, then build."""
        seed_all(seed)
        model = problem.build_model(seed).to(device)
        shared = shared_layer_of(problem, model, seed, device)
        updates = Updates(problem, model)
        loader = problem.loader("train", seed)
        return cls(model, shared, updates, loader, DataOrder(loader, device))

    def balancer(self, config: TrialConfig, tasks: list[str]) -> Balancer:
        """The balancer of a trial with these parts."""
        return build_balancer(config.method, config.settings, tasks, self.shared, self._steps(config))

    def _steps(self, config: TrialConfig) -> int:
        """Optimizer steps of the whole run; 0 where no recipe asks, as a stream need not know its length."""
        if config.settings.get("recipe") not in OVER_THE_RUN:
            return 0
        try:
            return max(1, len(self.loader)) * config.epochs  # one without batches is told of when it is read
        except TypeError:
            raise ValueError(
                f"recipe {config.settings['recipe']!r} has to know the steps of a run: "
                "loader('train') should have a length. Found none."
            ) from None


def evaluate(problem: Problem, model: nn.Module, split: Any, device: torch.device) -> dict[str, float]:
    """The metrics of a split, as the user's code returns them.

    Of a cohort one trial is evaluated after another, so that nothing that this leaves behind may reach the next.
    """
    model.eval()
    with as_found(), torch.no_grad(), autocast(problem, device):
        return {task: float(value) for task, value in problem.evaluate(model, split).items()}


def in_turn(numbers: Sequence[int], device: torch.device) -> Iterator[int]:
    """Go through trials that are evaluated one after another, each with the random generators as it has them alone.

    Afterwards the generators are as the first trial has left them.
    """
    if len(numbers) < 2:
        yield from numbers
        return
    before = read_state(device)
    yield numbers[0]
    after = read_state(device)
    for number in numbers[1:]:
        set_state(before, device)
        yield number
    set_state(after, device)


def add_gap(log: TrialRecorder, into: TrialResult | EpochMetrics, measure: Callable[[], Mapping[str, float]]) -> None:
    """The metrics on the training split. Only the report's gap needs them, so what goes wrong fails no trial."""
    try:
        into.train = log.measured("train", measure())
    except BaseException as error:
        if is_interrupt(error):
            raise
        log.warn(f"no gap of train and test, since evaluate(model, 'train') raised: {one_line(error)}")
