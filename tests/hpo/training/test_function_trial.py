"""Training functions as trials: the same numbers as a class, resumed trials, faults by name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import hpo.training.checkpoints
from examples.bring_your_own import HalfDigits
from examples.training_function import train as half_digits
from gradsweep import Trial
from hpo.core.storage import Storage
from hpo.core.trial import EpochReport, TrialConfig, TrialStatus
from hpo.problems.training_function import TrainingFunction
from hpo.training.checkpoints import Checkpoints
from hpo.training.trial import run_trial
from tests.helpers import training_functions as functions
from tests.helpers.cohorts import ONE_OF_EACH
from tests.helpers.function_runs import CPU, config, problem, run, run_killed, same
from tests.helpers.small_problem import SETTINGS
from tests.helpers.training_functions import Loaded


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    return Storage(str(tmp_path / "checkpoints"))


ALIKE = [one for one in ONE_OF_EACH if one[0] != "gradnorm" or one[1] == {"recipe": "direct", "alpha": 1.2}]


@pytest.mark.parametrize(("method", "settings"), ALIKE)
def test_a_function_trains_as_the_class_does(method: str, settings: dict[str, Any]) -> None:
    trial = config(method, **settings)
    same(run(trial, Loaded()), run(trial, problem(functions.right)))


@pytest.mark.parametrize("method", ["equal", "gradnorm"])
def test_the_example_has_the_metrics_of_the_tutorials_class(method: str) -> None:
    settings = SETTINGS[method] if method == "gradnorm" else {}
    trial = TrialConfig("half", {}, "", method, settings, 3, 2, True)
    of_class = run(trial, HalfDigits())
    same(replace(of_class, train={}), run(trial, problem(half_digits)))  # the function reads no training split


@pytest.mark.parametrize("function", [functions.right, functions.own_files, functions.by_numbers])
@pytest.mark.parametrize("until", [1, 2])
def test_a_trial_that_pauses_and_continues_is_the_same(
    function: TrainingFunction, until: int, storage: Storage
) -> None:
    trial = config() if function is functions.by_numbers else config("gradnorm", **SETTINGS["gradnorm"])
    checkpoints = Checkpoints(storage, trial.identity, 0.0)
    paused = run(trial, problem(function), checkpoints, until)
    assert (paused.status, paused.test) == (TrialStatus.PAUSED, {})
    resumed = run(trial, problem(function), checkpoints)
    same(run(trial, problem(function)), resumed)
    own_epoch_again = function is functions.own_files  # its file was written after the report that ended it
    assert bool(resumed.resumed) == (not own_epoch_again or until > 1)


def test_a_trial_that_was_killed_when_it_had_paused_pauses_again(storage: Storage) -> None:
    checkpoints = Checkpoints(storage, (trial := config()).identity, 0.0)
    run(trial, problem(functions.own_files), checkpoints, until=2)  # whose file is of the first epoch
    paused = run(trial, problem(functions.own_files), checkpoints, until=1)
    assert (paused.status, paused.resumed, paused.steps) == (TrialStatus.PAUSED, [8], 8)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_trial_that_is_killed_continues_after_its_last_checkpoint(storage: Storage, epoch: int) -> None:
    trial = config("gradnorm", **SETTINGS["gradnorm"])
    checkpoints = Checkpoints(storage, trial.identity, 0.0)
    decayed = problem(functions.right, decay=0.5)
    run_killed(trial, decayed, checkpoints, epoch)
    reports: list[EpochReport] = []
    steps: list[int] = []
    resumed = run_trial(trial, decayed, reports.append, CPU, checkpoints, resumed=steps.append)
    same(run(trial, decayed), resumed)
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert steps == resumed.resumed == ([8 * (epoch - 1)] if epoch > 1 else [])


def test_a_checkpoint_that_does_not_fit_begins_again_and_says_so(storage: Storage) -> None:
    trial = config()
    checkpoints = Checkpoints(storage, trial.identity, 0.0)
    run(trial, problem(functions.by_numbers), checkpoints, until=1)
    found = run(trial, problem(functions.right), checkpoints)
    assert found.alarms[0].startswith("began at the first step, since its checkpoint does not fit: ValueError: ")
    same(run(trial, problem(functions.right)), replace(found, alarms=[]))


def test_the_test_split_is_read_where_the_study_says_so() -> None:
    searched, confirmed = (run(config(test=test), problem(functions.right)) for test in (False, True))
    assert (searched.test, searched.train) == ({}, {})
    assert confirmed.test.keys() == confirmed.train.keys() == {"near", "far", "tiny"}
    assert searched.validation == confirmed.validation


def test_the_best_epoch_is_kept_as_of_a_class() -> None:
    trial = config(select="best")
    found = run(trial, problem(functions.right))
    same(run(trial, Loaded()), found)
    assert found.best_epochs[-1].test


def test_fixed_weights_are_plain_numbers() -> None:
    weights = {"near": 2.0, "far": 0.5, "tiny": 0.5}
    found = run(config("static", weights=weights), problem(functions.by_numbers))
    assert found.status is TrialStatus.FINISHED
    assert found.averages["arithmetic"] == weights
    assert found.steps == functions.EPOCHS


def test_a_method_without_fixed_weights_is_left_out_of_a_function_that_takes_them() -> None:
    found = run(config("gradnorm", **SETTINGS["gradnorm"]), problem(functions.by_numbers))
    assert found.status is TrialStatus.REFUSED
    assert found.alarms == [
        "left out: its weights depend on losses or gradients, and the function takes fixed weights"
    ]


def test_losses_that_are_not_finite_end_the_function() -> None:
    def infinite(trial: Any) -> None:
        model = functions.Net()
        losses = functions.Loaded().losses(model, next(iter(functions.Batches(1, 0))))
        trial.balancer(shared=model.trunk).backward({task: loss * float("inf") for task, loss in losses.items()})
        raise AssertionError

    found = run(config(), functions.faulty(infinite))
    assert (found.status, found.error[:45]) == (TrialStatus.DIVERGED, "the first loss is not finite after 0 steps: n")


EACH = "a number for each of the tasks near, far, tiny"
FAULTS = {
    "never_reports": "training function: expected trial.report() in each of the 3 epochs of the trial, got a return "
    "without a report",
    "returns_early": "training function: expected trial.report() in each of the 3 epochs of the trial, got a return "
    "after 1 of 3 epochs",
    "reports_an_unknown_task": f"trial.report(): expected {EACH}, got the unknown other",
    "misses_a_task": f"trial.report(): expected {EACH}, got none of tiny",
    "reports_text": "trial.report(): expected a number for task far, got '0.5'",
    "exits": "training function: expected a return at its end, got sys.exit(3)",
    "has_no_balancer": "training function: expected losses weighted by trial.balancer() or trial.weights, got "
    "neither of them used",
    "does_not_use_its_balancer": "training function: expected steps with trial.balancer() in each epoch, as by "
    "balancer.backward(losses), got none in epoch 1",
    "reads_the_test_split": "trial.report(test=...): expected a function that returns the metrics, since the study "
    "says when the test split is read, got {'near': 1.0, 'far': 1.0, 'tiny': 1.0}",
    "reports_twice": "trial.report(): expected one call in each epoch, got a second in epoch 1",
    "reports_too_often": "trial.report(): expected a call for each of the 3 epochs of the trial, got one more",
    "skips_a_report": "trial.report(): expected a call in each epoch, got none in epoch 1 of 3",
    "hands_over_a_number": "trial.epochs(model=...): expected an object with state_dict and load_state_dict, a "
    "torch.Generator or a DataLoader, got int",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_function_fails_its_trial_by_name(fault: str) -> None:
    found = run(config(), functions.faulty(getattr(functions, fault)))
    assert found.status is TrialStatus.FAILED
    assert found.error.partition("\n\n")[0].removeprefix("ValueError: ") == FAULTS[fault]


@pytest.mark.parametrize("function", [functions.catches_everything, functions.raises_in_place_of_the_end])
def test_a_function_that_catches_everything_ends_all_the_same(function: Any) -> None:
    found = run(config(), functions.faulty(function))
    assert (found.status, found.error) == (
        TrialStatus.DIVERGED,
        "the metric on val is not finite after 1 steps: near = nan",
    )


def test_a_process_that_is_left_is_ended_and_told() -> None:
    found = run(config(), functions.faulty(functions.leaves_a_process))
    assert found.status is TrialStatus.FINISHED
    (alarm,) = found.alarms
    assert alarm.startswith("left 1 child process running, ")
    assert alarm.endswith("they were ended")
    pid = int(alarm.partition("(process ")[2].partition(")")[0])
    assert not Path(f"/proc/{pid}/exe").exists() or os.getpid() == pid


def test_a_folder_without_storage_is_removed_at_the_end() -> None:
    seen: list[Path] = []

    def writes(trial: Any) -> None:
        seen.append(trial.folder)
        (trial.folder / "file").write_text("x")

    run(config(), functions.faulty(writes))
    assert not seen[0].exists()


def test_a_folder_in_an_object_store_comes_to_the_next_node() -> None:
    trial = config("gradnorm", **SETTINGS["gradnorm"])
    checkpoints = Checkpoints(Storage(f"memory://{trial.identity}"), trial.identity, 0.0)
    paused = run(trial, problem(functions.own_files), checkpoints, until=2)
    assert (paused.status, paused.alarms) == (TrialStatus.PAUSED, [])
    resumed = run(trial, problem(functions.own_files), checkpoints)
    assert resumed.resumed == [8]  # the file is written after the report that ended the second epoch
    same(run(trial, problem(functions.own_files)), resumed)
    checkpoints.remove()
    empty = checkpoints.folder()
    assert list(empty.path.iterdir()) == []
    empty.close()
    assert not empty.path.exists()


def accumulated(trial: Trial) -> None:
    """Make steps of three passes, the last one of an epoch of two."""
    model = functions.Net().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = list(functions.Batches(1, 0))
    balancer = trial.balancer(shared=model.trunk, accumulate=3)
    for _ in trial.epochs(model=model, optimizer=optimizer):
        for number, batch in enumerate(batches, 1):
            balancer.backward(functions.Loaded().losses(model, batch))
            if number % 3 == 0 or number == len(batches):
                optimizer.step()
                optimizer.zero_grad()
        functions.reports(trial)


@pytest.mark.parametrize(
    ("method", "settings"),
    [("equal", {}), ("uncertainty", {}), ("gradnorm", {"recipe": "robust", "alpha": 0.5})],
)
def test_passes_that_are_accumulated_are_one_step_of_any_method(method: str, settings: dict[str, Any]) -> None:
    found = run(config(method, **settings), functions.faulty(accumulated))
    assert (found.status, found.steps) == (TrialStatus.FINISHED, 3 * functions.EPOCHS), found.error
    assert len(found.trajectory["L"]) == 3 * functions.EPOCHS


def test_losses_of_accumulated_passes_are_their_means() -> None:
    found = run(config("equal"), functions.faulty(accumulated))
    with torch.random.fork_rng():
        torch.manual_seed(config().seed)
        model = functions.Net().eval()
    with torch.no_grad():
        losses = [functions.Loaded().losses(model, batch) for batch in list(functions.Batches(1, 0))[:3]]
    first = [sum(float(one[task]) for one in losses) / 3 for task in ("near", "far", "tiny")]
    assert found.trajectory["L"][0] == pytest.approx(first, rel=1e-5)
    assert list(found.initial_losses.values()) == pytest.approx(first, rel=1e-5)
