"""Trials in the Trainer of Hugging Face: resumed to the last digit, faults in one line."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hpo.core.trial import TrialConfig, TrialResult, TrialStatus
from hpo.training.checkpoints import Checkpoints
from hpo.training.frameworks.transformers import FILE
from tests.helpers import transformers_trials as trials
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

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
GRADNORM = config("gradnorm", **SETTINGS["gradnorm"])
Kept = Callable[[TrialConfig], Checkpoints]


@cache
def undisturbed() -> TrialResult:
    return run(GRADNORM, problem(trials.scheduled))


@pytest.mark.parametrize("until", [1, 2])
def test_a_trial_that_pauses_and_continues_is_the_same(until: int, checkpoints_of: Kept) -> None:
    assert_it_pauses_and_continues(GRADNORM, problem(trials.scheduled), checkpoints_of(GRADNORM), until)


def test_a_trial_that_is_killed_continues_after_its_last_complete_checkpoint(
    checkpoints_of: Kept, tmp_path: Path
) -> None:
    checkpoints = checkpoints_of(GRADNORM)
    run_killed(GRADNORM, problem(trials.scheduled), checkpoints, epoch=3)
    kept = {folder.name: {file.name for file in folder.iterdir()} for folder in tmp_path.rglob("checkpoint-*")}
    assert kept.keys() == {"checkpoint-8", "checkpoint-12"}  # the second is the Trainer's own, before the last report
    assert {name for name, files in kept.items() if FILE in files} == {"checkpoint-8"}
    resumed = run(GRADNORM, problem(trials.scheduled), checkpoints)
    assert resumed.resumed == [8]
    same(undisturbed(), resumed)


def test_the_test_split_is_read_where_the_study_says_so_and_training_goes_on_as_before() -> None:
    assert_the_test_split_is_read_where_asked(GRADNORM, problem(trials.scheduled))


def test_losses_that_are_not_finite_end_the_trial_and_leave_nothing_behind() -> None:
    def infinite(trial: Any) -> None:
        trials.fit(trial, kind=trials.Infinite)
        raise AssertionError

    found = run(config(), faulty(infinite))
    assert (found.status, found.error[:45]) == (TrialStatus.DIVERGED, "the first loss is not finite after 0 steps: n")
    same(undisturbed(), run(GRADNORM, problem(trials.scheduled)))


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a name that is not logged": (
        {"validation": trials.names("valid")},
        "TrialCallback(validation=...): expected names of logged metrics, of which there are epoch, eval_far, "
        "eval_loss, eval_near, ",
    ),
    "another folder": ({"output_dir": "elsewhere"}, "output_dir: expected trial.folder, got 'elsewhere'"),
    "other epochs": ({"num_train_epochs": 7}, "num_train_epochs: expected 3, as trial.total_epochs, got 7"),
    "another seed": ({"seed": 42}, "seed: expected 5, as trial.seed, got 42"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings, message = FAULTS[fault]
    found = run(config(), faulty(lambda trial: trials.fit(trial, **settings)))
    assert found.status is TrialStatus.FAILED
    assert found.error.partition("\n\n")[0].removeprefix("ValueError: ").startswith(message)


def test_passes_that_are_accumulated_are_one_step_of_any_method() -> None:
    found = run(config("equal"), problem(trials.scheduled))
    assert found.steps == undisturbed().steps == 4 * trials.EPOCHS
    assert found.trajectory["L"].shape == undisturbed().trajectory["L"].shape
