"""Trials in Lightning: as in a loop of one's own, resumed to the last digit, faults in one line."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradsweep import Trial
from gradsweep.lightning import TrialCallback
from hpo.core.trial import TrialConfig, TrialResult, TrialStatus
from hpo.training.checkpoints import Checkpoints
from tests.helpers import lightning_trials as trials
from tests.helpers import training_functions as functions
from tests.helpers.function_runs import (
    assert_it_pauses_and_continues,
    assert_the_test_split_is_read_where_asked,
    config,
    problem,
    run,
    run_killed,
    same,
)
from tests.helpers.small_problem import SETTINGS
from tests.helpers.training_functions import faulty

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning", "ignore:.*LeafSpec"
)
GRADNORM = config("gradnorm", **SETTINGS["gradnorm"])
Kept = Callable[[TrialConfig], Checkpoints]


@cache
def undisturbed() -> TrialResult:
    return run(GRADNORM, problem(trials.scheduled))


def test_a_trial_is_as_in_a_plain_loop() -> None:
    """For one epoch: before each later one Lightning asks the loader twice, which shuffles it otherwise."""
    trial = replace(GRADNORM, epochs=1)
    expected, found = (run(trial, problem(one)) for one in (functions.right, trials.plain))
    for column, values in expected.trajectory.items():
        assert np.array_equal(values, found.trajectory[column], equal_nan=True)
    for split in ("validation", "test"):
        assert getattr(found, split) == pytest.approx(getattr(expected, split), rel=1e-6)


@pytest.mark.parametrize("until", [1, 2])
def test_a_trial_that_pauses_and_continues_is_the_same(until: int, checkpoints_of: Kept) -> None:
    """With accumulation, dropout, a shuffled loader, and a schedule that follows a metric."""
    assert_it_pauses_and_continues(GRADNORM, problem(trials.scheduled), checkpoints_of(GRADNORM), until)


def test_a_trial_that_is_killed_continues_after_its_last_checkpoint(checkpoints_of: Kept, tmp_path: Path) -> None:
    checkpoints = checkpoints_of(GRADNORM)
    run_killed(GRADNORM, problem(trials.scheduled), checkpoints, epoch=2)
    (kept,) = (tmp_path / "checkpoints").rglob("*.*")
    assert kept.name == "last.ckpt"
    resumed = run(GRADNORM, problem(trials.scheduled), checkpoints)
    assert resumed.resumed == [4]
    same(undisturbed(), resumed)


def test_the_test_split_is_read_where_the_study_says_so_and_training_goes_on_as_before() -> None:
    assert_the_test_split_is_read_where_asked(GRADNORM, problem(trials.scheduled))


def test_losses_that_are_not_finite_end_the_trial_and_leave_nothing_behind() -> None:
    class Infinite(trials.Module):
        def training_step(self, batch: Any, index: int) -> Any:
            return self.balancer(
                {task: loss / 0 for task, loss in functions.Loaded().losses(self.net, batch).items()}
            )

    def infinite(trial: Trial) -> None:
        trials.fit(trial, Infinite())
        raise AssertionError

    found = run(config(), faulty(infinite))
    assert (found.status, found.error[:45]) == (TrialStatus.DIVERGED, "the first loss is not finite after 0 steps: n")
    same(undisturbed(), run(GRADNORM, problem(trials.scheduled)))


def test_ctrl_c_is_no_fault_of_the_trial() -> None:
    class Interrupted(trials.Module):
        def training_step(self, batch: Any, index: int) -> Any:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(GRADNORM, faulty(lambda trial: trials.fit(trial, Interrupted())))
    assert signal.getsignal(signal.SIGINT) is before


LOGGED = "val_far, val_near, val_tiny"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is not logged": (
        {"validation": trials.names("valid")},
        f"TrialCallback(validation=...): expected names of logged metrics, of which there are {LOGGED}, got "
        "'valid_near' for task near",
    ),
    "other tasks": (
        {"validation": {"near": "val_near"}},
        "TrialCallback(validation=...): expected the name of a logged metric for each of the tasks near, far, tiny, "
        "got names for near",
    ),
    "other epochs": ({"max_epochs": 7}, "max_epochs: expected 3, as trial.total_epochs, got 7"),
    "not each epoch": (
        {"check_val_every_n_epoch": 2},
        "check_val_every_n_epoch: expected 1, since the study reads each epoch, got 2",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line(fault: str) -> None:
    settings, message = FAULTS[fault]
    found = run(config(), faulty(lambda trial: trials.fit(trial, trials.Module(), **settings)))
    assert found.status is TrialStatus.FAILED
    assert found.error.partition("\n\n")[0].removeprefix("ValueError: ") == message


def test_a_callback_before_the_balancer_is_a_fault() -> None:
    found = run(config(), faulty(lambda trial: TrialCallback(trial, {}, {})))
    assert found.error.startswith("ValueError: training function: expected losses weighted by trial.balancer()")


def test_passes_that_are_accumulated_are_one_step_of_any_method() -> None:
    found = run(config("equal"), problem(trials.scheduled))
    assert found.steps == undisturbed().steps == 4 * trials.EPOCHS
    assert found.trajectory["L"].shape == undisturbed().trajectory["L"].shape
