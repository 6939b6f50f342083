"""A trial that counts at its best epoch: it trains as any other, and keeps the epochs that may be the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import hpo.training.checkpoints
from hpo.core.storage import Storage
from hpo.core.trial import EpochMetrics, EpochReport, TrialConfig, TrialResult
from hpo.problems.base import Problem, Split
from hpo.training.best_epochs import with_epoch
from hpo.training.checkpoints import Checkpoints
from hpo.training.cohort import run_cohort
from hpo.training.trial import run_trial
from tests.helpers.cohorts import CPU, Heard
from tests.helpers.small_problem import TASKS, Small, config

BEST = replace(config("equal", test=True), select="best", epochs=5)


class Uneven(Small):
    """Trains so fast that epochs get worse, and draws random numbers wherever it is evaluated."""

    def build_optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.5)

    def evaluate(self, model: torch.nn.Module, split: Split) -> dict[str, float]:
        return {task: value + 1e-3 * float(torch.rand(())) for task, value in super().evaluate(model, split).items()}


class Interrupted(Uneven):
    """Is interrupted at a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def losses(self, model: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        if self.step == self.at:
            raise KeyboardInterrupt
        return super().losses(model, batch)


def trained(trial: TrialConfig, problem: Problem | None = None) -> tuple[TrialResult, list[EpochReport]]:
    reports: list[EpochReport] = []
    return run_trial(trial, problem or Uneven(), reports.append, CPU), reports


def test_training_is_that_of_a_trial_that_counts_at_its_last_epoch():
    best, reports = trained(BEST)
    last, others = trained(replace(BEST, select="last"))
    np.testing.assert_array_equal(best.trajectory["L"], last.trajectory["L"])
    assert [report.validation for report in reports] == [report.validation for report in others]
    assert 0 < len(best.best_epochs) < 5
    assert (best.test, last.best_epochs) == ({}, [])


def test_each_epoch_that_may_be_the_best_has_the_metrics_that_a_trial_of_that_length_ends_with():
    for found in trained(BEST)[0].best_epochs:
        ended, _ = trained(replace(BEST, select="last", epochs=found.epoch))
        assert (found.validation, found.test, found.train) == (ended.validation, ended.test, ended.train)


def test_a_search_trial_reads_no_test_split():
    problem = Uneven()
    found, _ = trained(replace(BEST, test=False), problem)
    assert [(epoch.test, epoch.train) for epoch in found.best_epochs] == [({}, {})] * len(found.best_epochs)
    assert "test" not in problem.read


def test_a_network_of_one_task_has_one_best_epoch():
    found, reports = trained(replace(BEST, method="single_task", settings={"task": "far"}))
    (best,) = found.best_epochs
    values = [report.validation["far"] for report in reports]
    assert best.epoch == 1 + int(np.argmin(values)) < 5


@pytest.mark.parametrize("at", [12, 31])
def test_an_interrupted_trial_keeps_the_same_epochs(at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    checkpoints = Checkpoints(Storage(str(tmp_path)), BEST.identity, 0.0)
    with pytest.raises(KeyboardInterrupt):
        run_trial(BEST, Interrupted(at), lambda _: None, CPU, checkpoints)
    found = run_trial(BEST, Uneven(), lambda _: None, CPU, checkpoints)
    assert found.resumed == [at]
    assert found.best_epochs == trained(BEST)[0].best_epochs


def test_trials_of_a_cohort_keep_the_epochs_that_they_keep_alone():
    methods = [("equal", {}), ("single_task", {"task": "far"}), ("uncertainty", {})]
    trials = [replace(BEST, method=method, settings=settings) for method, settings in methods]
    heard = Heard()
    run_cohort(trials, Uneven(), CPU, heard)
    assert heard.whys == []
    for trial in trials:
        found, alone = heard.results[trial.identity].best_epochs, trained(trial)[0].best_epochs
        tasks = [trial.settings.get("task")] if trial.settings else TASKS
        assert [epoch.epoch for epoch in found] == [epoch.epoch for epoch in alone]
        for one, other in zip(found, alone, strict=True):
            for split in ("validation", "test", "train"):
                mine, its = asdict(one)[split], asdict(other)[split]
                assert [mine[task] for task in tasks] == pytest.approx([its[task] for task in tasks], rel=1e-3)


def test_trials_that_count_at_their_last_epoch_keep_their_identity():
    assert config("equal").identity == "9010e038754638f7"
    assert replace(config("equal"), select="best").identity != config("equal").identity


numbers = st.lists(st.floats(0, 3).map(lambda x: round(x, 1)), min_size=2, max_size=2)


@settings(max_examples=100, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=12), st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])))
def test_the_epoch_with_the_lowest_score_is_kept_whatever_the_references_are(
    rows: Sequence[Sequence[float]], signs: tuple[int, int]
):
    directions = dict(zip("ab", signs, strict=True))
    kept: list[EpochMetrics] = []
    for number, row in enumerate(rows, 1):
        kept = with_epoch(kept, EpochMetrics(number, dict(zip("ab", row, strict=True))), directions)
    epochs = [one.epoch for one in kept]
    assert epochs == sorted(epochs)
    for shares in ((1.0, 1.0), (1.0, 0.1), (0.01, 1.0)):
        costs = [sum(w * d * x for w, d, x in zip(shares, signs, row, strict=True)) for row in rows]
        assert min(costs[epoch - 1] for epoch in epochs) == pytest.approx(min(costs))
