"""Training runs that end after some steps or seconds, by `hpo.training.trial.run_trial`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from balancers.shared_layer import SharedOrAuto
from hpo.check.context import SEED
from hpo.core.trial import TrialConfig, TrialResult
from hpo.problems.base import Optimizers, Problem, Split
from hpo.training.trial import run_trial


@dataclass(frozen=True)
class Limits:
    """The end of a run: a number of steps, or of seconds from the second step on, since the first may compile."""

    steps: int
    seconds: float


@dataclass(frozen=True)
class ShortRun:
    """A finished short training run.

    Attributes:
        result: of `run_trial`; its one epoch is the whole run.
        seconds: from each step to the next, loading included.
    """

    result: TrialResult
    seconds: list[float]


def train_shortly(
    problem: Problem,
    method: str,
    settings: Mapping[str, Any],
    device: torch.device,
    limits: Limits,
    evaluate: bool = False,
) -> ShortRun:
    """Train with a method, repeating the training data until a limit is reached.

    Args:
        problem: the user's.
        method: a key of `hpo.training.methods.METHODS`.
        settings: of the method.
        device: where to train.
        limits: of steps and seconds.
        evaluate: whether to compute the metrics on val at the end; otherwise they are 0.
    """
    short = _Short(problem, device, limits, evaluate)
    result = run_trial(TrialConfig("", {}, "", method, settings, SEED, epochs=1), short, _ignore, device)
    return ShortRun(result, [end - start for start, end in pairwise(short.stamps)])


def _ignore(report: object) -> None:
    del report


class _Short(Problem):
    """The user's problem with one training epoch that ends at the limits."""

    def __init__(self, problem: Problem, device: torch.device, limits: Limits, evaluate: bool) -> None:
        self.tasks, self.schedule_per = problem.tasks, problem.schedule_per
        self.clip_norm, self.autocast = problem.clip_norm, problem.autocast
        self.stamps: list[float] = []  # when each step began
        self._problem, self._device, self._limits, self._evaluates = problem, device, limits, evaluate

    def build_model(self, seed: int) -> nn.Module:
        return self._problem.build_model(seed)

    def shared_layer(self, model: nn.Module) -> SharedOrAuto:
        return self._problem.shared_layer(model)

    def build_optimizer(self, model: nn.Module) -> Optimizers:
        return self._problem.build_optimizer(model)

    def loader(self, split: Split, seed: int) -> Iterable[Any]:
        return _ShortEpoch(self._problem.loader(split, seed), self)

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        return self._problem.losses(model, batch)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        return self._problem.evaluate(model, split) if self._evaluates else {task.name: 0.0 for task in self.tasks}

    def ends(self) -> bool:
        """Record the end of the previous step; return whether the run is over."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.stamps.append(time.perf_counter())
        late = len(self.stamps) > 1 and self.stamps[-1] - self.stamps[1] > self._limits.seconds
        return late or len(self.stamps) > self._limits.steps


class _ShortEpoch:
    """Iterates over a loader epoch by epoch until the run ends."""

    def __init__(self, loader: Iterable[Any], run: _Short) -> None:
        self._loader, self._run = loader, run

    def __iter__(self) -> Iterator[Any]:
        empty = False
        while not empty:
            empty = True
            for batch in self._loader:
                if self._run.ends():
                    return
                empty = False
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state, so that `DataOrder` uses the loader unchanged; no checkpoint is written."""
        return {}
