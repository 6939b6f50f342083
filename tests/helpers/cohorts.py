"""Trials that are trained at once, and their reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hpo.core.trial import EpochReport, TrialConfig, TrialResult
from hpo.problems.base import Problem
from hpo.training.cohort import run_cohort
from hpo.training.methods import RECIPES
from hpo.training.trial import run_trial
from tests.helpers.small_problem import TASKS, Net, Small

CPU = torch.device("cpu")
EPSILON = torch.finfo(torch.float32).eps
FEW = 20  # steps; later rounding may turn the sign of a gradient near zero, and Adam makes a whole step of it
ONE_OF_EACH: list[tuple[str, dict[str, Any]]] = [
    ("static", {"weights": {"near": 0.5, "far": 0.05, "tiny": 2.45}}),
    ("equal", {}),
    ("single_task", {"task": "far"}),
    ("uncertainty", {}),
    ("frozen", {"rule": "loss"}),
    ("frozen", {"rule": "gradient"}),
    *(("gradnorm", {"recipe": recipe, "alpha": alpha}) for recipe in RECIPES for alpha in (0.0, 1.2)),
]


@dataclass
class Heard:
    """The callbacks of a cohort, recorded."""

    results: dict[str, TrialResult] = field(default_factory=dict)
    reports: dict[str, list[EpochReport]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    whys: list[str] = field(default_factory=list)

    def on_resumed(self, config: TrialConfig, steps: int) -> None:
        self.steps[config.identity] = steps
        self.reports[config.identity] = []

    def on_epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        for config, report in reports:
            self.reports.setdefault(config.identity, []).append(report)

    def on_ended(self, config: TrialConfig, result: TrialResult) -> None:
        assert config.identity not in self.results
        self.results[config.identity] = result

    def on_alone(self, count: int, why: str) -> None:
        self.whys.append(f"{count}: {why}")


class Precise(Small):
    """In double precision, so that what differs is not rounding."""

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return self.net().double()

    def net(self) -> nn.Module:
        return Net()

    def loader(self, split: Any, seed: int) -> Any:
        return Doubled(super().loader(split, seed))


class Doubled:
    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return (({"x": x.double()}["x"], {t: v.double() for t, v in y.items()}) for x, y in self.batches)


class NormedNet(nn.Module):
    """Batch norm has buffers that a step changes, one of which counts the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = nn.functional.dropout(self.norm(self.trunk(x)).relu(), 0.1, self.training)
        return {task: head(features).squeeze(1) for task, head in self.heads.items()}


class Normed(Precise):
    def net(self) -> nn.Module:
        return NormedNet()


def cohort_of(*methods: tuple[str, dict[str, Any]], test: bool = True, epochs: int = 3) -> list[TrialConfig]:
    return [TrialConfig("small", {}, "small", name, settings, 0, epochs, test) for name, settings in methods]


def train(configs: list[TrialConfig], problem: Problem, checkpoints: Any = None) -> Heard:
    heard = Heard()
    run_cohort(configs, problem, CPU, heard, checkpoints)
    return heard


def alone(config: TrialConfig, problem: Problem) -> tuple[TrialResult, list[EpochReport]]:
    reports: list[EpochReport] = []
    return run_trial(config, problem, reports.append, CPU), reports


KNOWN: dict[tuple[type[Problem], str, bool], tuple[TrialResult, list[EpochReport]]] = {}


def alone_once(config: TrialConfig, kind: type[Problem]) -> tuple[TrialResult, list[EpochReport]]:
    """A trial as it ends alone, trained once for all tests that ask for it."""
    key = kind, config.identity, config.test
    if key not in KNOWN:
        KNOWN[key] = alone(config, kind())
    return KNOWN[key]


def check_same(
    heard: Heard, config: TrialConfig, problem: Problem, together: int, close: float = 1e-5, resumed: int = 0
) -> None:
    """Check that a trial of a cohort has the same reports and result as alone, except for its seconds."""
    expected, reports = alone_once(config, type(problem))
    found = heard.results[config.identity]
    assert (found.status, found.error, found.alarms) == (expected.status, expected.error, expected.alarms)
    assert (found.steps, found.together) == (expected.steps, together)
    assert found.seconds > 0
    # Weight decay moves the heads that a single-task trial leaves out, which stay alone.
    tasks = [config.settings["task"]] if config.method == "single_task" else TASKS
    for name in ("validation", "test", "train", "initial_losses"):
        one, other = getattr(found, name), getattr(expected, name)
        assert [one[task] for task in tasks] == pytest.approx([other[task] for task in tasks], rel=close), name
        assert list(one) == list(other), name
    assert found.averages.keys() == expected.averages.keys()
    for name, mean in expected.averages.items():
        assert found.averages[name] == pytest.approx(mean, rel=close), name
    for name, column in expected.trajectory.items():
        own: Any = ... if name in ("step", "w") else (slice(None), [TASKS.index(task) for task in tasks])
        np.testing.assert_allclose(found.trajectory[name][own], column[own], rtol=close, atol=1e-7, err_msg=name)
    told = heard.reports[config.identity]
    assert [(r.epoch, r.epochs, r.steps) for r in told] == [(r.epoch, r.epochs, r.steps) for r in reports]
    for pair in zip(told, reports, strict=True):
        for name in ("loss", "validation", "weights", "gradient_norms", "rates"):
            mine, its = ({t: v for t, v in getattr(report, name).items() if t in tasks} for report in pair)
            assert mine == pytest.approx(its, rel=close), name
    assert found.resumed == ([resumed] if resumed else [])


def apart(one: TrialResult, other: TrialResult, column: str, steps: int) -> float:
    """Return the largest difference of two trials within a number of steps, relative to a task's mean."""
    mine, its = (result.trajectory[column][:steps] for result in (one, other))
    assert mine.shape == its.shape == (steps, mine.shape[1])
    return float((np.abs(mine - its) / np.abs(its).mean(axis=0)).max())


def columns(config: TrialConfig) -> str:
    """Return the columns that a trial records: static weights need no gradient norms."""
    return "wLG" if config.method == "gradnorm" else "wL"
