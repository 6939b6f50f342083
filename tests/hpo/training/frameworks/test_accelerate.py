"""Trials in a loop with accelerate: what it prepares is saved and resumed to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.state import AcceleratorState, GradientState

from gradsweep import Trial
from hpo.core.trial import TrialConfig, TrialStatus
from hpo.training.checkpoints import Checkpoints
from tests.helpers.function_runs import config, run, run_killed, same
from tests.helpers.small_problem import SETTINGS, Net
from tests.helpers.training_functions import Loaded, faulty, loader_of, measure

GRADNORM = config("gradnorm", **SETTINGS["gradnorm"])
Kept = Callable[[TrialConfig], Checkpoints]


@pytest.fixture(autouse=True)
def _own_state() -> None:
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


class Prepared:
    """The small problem, prepared by accelerate."""

    def __init__(self, trial: Trial, seedable: bool) -> None:
        settings = DataLoaderConfiguration(use_seedable_sampler=seedable)
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, dataloader_config=settings)
        self.net = Net()
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        loader = loader_of(trial.seed)
        self.parts = self.accelerator.prepare(self.net, optimizer, schedule, loader)
        self.balancer = trial.balancer(shared=self.net.trunk)
        self.balancer.accumulate = 2  # type: ignore[attr-defined]

    def epoch(self) -> None:
        model, optimizer, schedule, loader = self.parts
        model.train()
        for batch in loader:
            with self.accelerator.accumulate(model):
                self.accelerator.backward(self.balancer(Loaded().losses(model, batch)))
                optimizer.step()
                optimizer.zero_grad()
        schedule.step()

    def report(self, trial: Trial) -> None:
        trial.report(measure(self.net, "val"), test=lambda: measure(self.net, "test"))


def by_epochs(trial: Trial, seedable: bool = False) -> None:
    """Hand what is prepared to `Trial.epochs`."""
    prepared = Prepared(trial, seedable)
    for _ in trial.epochs(**dict(zip(("model", "optimizer", "schedule", "loader"), prepared.parts, strict=True))):
        prepared.epoch()
        prepared.report(trial)


def by_its_own_files(trial: Trial) -> None:
    """Keep what is prepared in accelerate's own checkpoints."""
    prepared = Prepared(trial, seedable=True)
    prepared.accelerator.register_for_checkpointing(trial)
    if (folder := trial.folder / "state").exists():
        prepared.accelerator.load_state(folder)
    while trial.epochs_done < trial.total_epochs:
        prepared.parts[-1].set_epoch(trial.epochs_done)
        prepared.epoch()
        prepared.report(trial)
        prepared.accelerator.save_state(folder)


WAYS: dict[str, Callable[[Trial], None]] = {
    "trial.epochs": by_epochs,
    "a sampler of a seed": lambda trial: by_epochs(trial, seedable=True),
    "files of accelerate": by_its_own_files,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_trial_that_is_killed_and_continues_is_the_same(way: str, checkpoints_of: Kept) -> None:
    function, checkpoints = faulty(WAYS[way]), checkpoints_of(GRADNORM)
    whole = run(GRADNORM, function)
    assert (whole.status, whole.steps) == (TrialStatus.FINISHED, 12)
    run_killed(GRADNORM, function, checkpoints, epoch=3)
    resumed = run(GRADNORM, function, checkpoints)
    assert resumed.resumed == [8]
    same(whole, resumed)


def test_a_trial_that_ends_in_the_middle_of_an_epoch_leaves_nothing_behind() -> None:
    def infinite(trial: Any) -> None:
        prepared = Prepared(trial, seedable=False)
        for number, batch in enumerate(prepared.parts[-1]):
            losses = Loaded().losses(prepared.net, batch)
            prepared.balancer.backward(losses if number else {task: loss / 0 for task, loss in losses.items()})

    whole = run(GRADNORM, faulty(by_epochs))
    assert run(config(), faulty(infinite)).status is TrialStatus.DIVERGED
    same(whole, run(GRADNORM, faulty(by_epochs)))
