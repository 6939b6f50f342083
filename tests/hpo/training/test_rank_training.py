"""Trials of several processes: the numbers of one process on the joined batch, resumed trials, faults by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hpo.core.storage import Storage
from hpo.core.trial import EventKind, TrialStatus
from hpo.problems import load_problem
from hpo.training.checkpoints import mark_shared
from hpo.training.trial import run_trial
from tests.helpers.rank_trials import rank_config, run_in_ranks

pytestmark = pytest.mark.slow


@pytest.fixture
def storage(tmp_path: Path) -> str:
    mark_shared(Storage(str(tmp_path)))
    return str(tmp_path)


JOINED = [
    ("shared", 2, "equal"),
    ("shared", 3, "gradnorm"),
    ("Joined", 2, "single_task"),
    ("Joined", 2, "frozen"),
    ("Joined", 3, "gradnorm"),
]


@pytest.mark.parametrize(("problem", "size", "method"), JOINED)
def test_ranks_train_as_one_process_on_the_joined_batch(problem: str, size: int, method: str, storage: str) -> None:
    trial = rank_config(problem, size, method)
    found = run_in_ranks(trial, storage)
    alone = run_trial(replace(trial, workers=1), load_problem(trial.problem, {}), repr, torch.device("cpu"))
    (first, reports), *others = found
    assert (first.status, first.alarms, first.steps) == (TrialStatus.FINISHED, [], alone.steps)
    assert first.validation == pytest.approx(alone.validation, rel=1e-5)
    assert first.test == pytest.approx(alone.test, rel=1e-5)
    assert first.initial_losses == pytest.approx(alone.initial_losses, rel=1e-5)
    for column, values in first.trajectory.items():
        assert values == pytest.approx(alone.trajectory[column], rel=1e-4, nan_ok=True), column
        for other, _ in others:
            assert other.trajectory[column].tobytes() == values.tobytes()
    assert [event.kind for report in reports for event in report["events"]] == [EventKind.EPOCH] * 3
    assert [told for _, told in others] == [[]] * (size - 1)


PAUSED = [("noisy", {}, 16), ("in_own_files", {}, 4), ("sharded", {}, 16), ("Joined", {"noise": True}, 16)]


@pytest.mark.parametrize(("problem", "arguments", "steps"), PAUSED)
def test_a_trial_that_pauses_goes_on_with_the_state_of_each_rank(
    problem: str, arguments: dict[str, Any], steps: int, storage: str
) -> None:
    trial = rank_config(problem, 2, "gradnorm", **arguments)
    undisturbed = run_in_ranks(trial, f"{storage}/other")
    paused = run_in_ranks(trial, storage, until=2)
    assert [result.status for result, _ in paused] == [TrialStatus.PAUSED] * 2
    resumed = run_in_ranks(trial, storage)
    for (one, _), (other, _) in zip(undisturbed, resumed, strict=True):
        assert other.resumed == [steps]
        assert (one.status, one.validation, one.test) == (other.status, other.validation, other.test)
        assert one.trajectory["w"].tobytes() == other.trajectory["w"].tobytes()


def test_networks_that_differ_between_the_processes_are_told(storage: str) -> None:
    ((first, _), _) = run_in_ranks(rank_config("apart", 2), storage)
    assert first.status is TrialStatus.FINISHED
    assert first.alarms == [
        "its processes trained networks that differ (model): wrap them, for instance in DistributedDataParallel, "
        "which averages the gradients"
    ]


def test_a_loss_that_diverges_on_one_process_ends_the_trial_on_all(storage: str) -> None:
    found = [result for result, _ in run_in_ranks(rank_config("apart", 2, fault="diverges"), storage)]
    assert [result.status for result in found] == [TrialStatus.DIVERGED] * 2
    assert {result.error.partition(": ")[0] for result in found} == {"the training loss is not finite after 4 steps"}


def test_batches_that_cannot_be_shared_fail_the_trial_by_name(storage: str) -> None:
    found = [result for result, _ in run_in_ranks(rank_config("Joined", 2, rows=13), storage)]
    rule = "a number that divides every batch (drop_last=True leaves out a shorter last one)"
    assert (
        f"resources.workers: expected {rule}, got 2 for a batch of 13 examples" in found[0].error.partition("\n")[0]
    )


def test_a_function_may_destroy_the_process_group(storage: str) -> None:
    found = [result for result, _ in run_in_ranks(rank_config("apart", 2, fault="destroys"), storage)]
    assert [result.status for result in found] == [TrialStatus.FINISHED] * 2


FAULTS = {
    "raises": "KeyError: 'on rank 1'",
    "returns": "ValueError: training function: expected trial.report() in each of the 3 epochs of the trial, got a "
    "return without a report",
    "reports_on_rank_0": "ValueError: trial.report(): expected a call in each epoch, got none in epoch 1 of 3",
    "reports_wrong": "ValueError: trial.report(): expected a number for each of the tasks near, far, tiny, got none "
    "of far, tiny",
    "longer": "ValueError: training function: expected as many steps on every rank, got 2, 3",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_one_process_fails_the_trial_by_name(fault: str, storage: str) -> None:
    found = [result for result, _ in run_in_ranks(rank_config("apart", 2, fault=fault), storage)]
    assert any(result.error.partition("\n")[0].endswith(FAULTS[fault]) for result in found)
