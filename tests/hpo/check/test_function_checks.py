"""`gradsweep check` of training functions: right ones, ones that differ, one that ignores its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradsweep import Trial
from hpo.check.function_checks import FunctionContext, check_gradnorm, check_resuming, check_training, check_weights
from hpo.check.problem_check import FUNCTION_CHECKS, Finding, _run, check_problem
from hpo.problems.training_function import FunctionProblem
from tests.helpers import training_functions as functions

CPU = torch.device("cpu")


def findings_of(function: Any) -> dict[str, Finding]:
    """Return the findings that are not about the data hash."""
    problem = function if isinstance(function, FunctionProblem) else FunctionProblem(function, {})
    checks = [check for check in FUNCTION_CHECKS if check[0] != "data hash"]
    return {finding.subject: finding for finding in _run(FunctionContext("x:y", problem, CPU), checks, str, repr)}


def test_all_is_well():
    told: list[str] = []
    found = check_problem("tests.helpers.training_functions:right", {"lr": 0.01}, CPU, told.append)
    assert [(finding.level, finding.allowed) for finding in found] == [("ok", "")] * len(FUNCTION_CHECKS)
    assert told == [finding.subject for finding in found] == [subject for subject, _, _ in FUNCTION_CHECKS]
    text = {finding.subject: finding.found for finding in found}
    assert text["training"].startswith("2 epochs, 16 steps, first losses: near ")
    assert text["resuming"] == "a trial that is interrupted after an epoch and resumed is the same"
    assert text["GradNorm"].startswith("norms of the gradients: near ")
    assert text["data hash"].endswith(", the same in another process")


def test_a_function_is_called_in_another_folder_as_in_a_worker(tmp_path, monkeypatch):
    (tmp_path / "reads_a_file.py").write_text(READS_A_FILE)
    (tmp_path / "data.txt").write_text("1")
    monkeypatch.chdir(tmp_path)
    found = {finding.subject: finding for finding in check_problem("reads_a_file:train", {}, CPU)}
    assert found["training"].level == "fault"
    assert found["training"].found.startswith("reads_a_file.py:6: FileNotFoundError: ")
    assert found["training"].allowed == "absolute paths, since the current folder of a worker is another one"


READS_A_FILE = """from gradsweep import Task, training


@training([Task("a", "MSE"), Task("b", "MSE")])
def train(trial):
    open("data.txt").read()
"""


def test_a_function_with_its_own_files_and_one_with_numbers_are_well_too():
    found = findings_of(functions.by_numbers)
    assert {finding.level for finding in found.values()} == {"ok"}
    assert "no steps of a balancer" in found["training"].found
    assert found["GradNorm"].found.startswith("methods whose weights are not fixed are left out: its weights depend")


def unseeded(trial: Trial) -> None:
    functions.torch.seed()
    functions.right.function(trial)


def without_parts(trial: Trial) -> None:
    model, batches = functions.Net(), functions.loader_of(trial.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    balancer = trial.balancer(shared=model.trunk)
    for _ in trial.epochs(model=model):
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            balancer.backward(functions.Loaded().losses(model, batch))
            optimizer.step()
        trial.report(functions.measure(model, "val"), test=lambda: functions.measure(model, "test"))


def not_resumed(trial: Trial) -> None:
    """Train in a loop of its own without a file."""
    model, batches = functions.Net(), functions.loader_of(trial.seed)
    balancer = trial.balancer(shared=model.trunk)
    for _ in range(trial.total_epochs):
        for batch in batches:
            balancer.backward(functions.Loaded().losses(model, batch))
        functions.reports(trial)


def without_weights(trial: Trial) -> None:
    """Ignore the balancer that it calls."""
    model, batches = functions.Net(), functions.loader_of(trial.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    balancer = trial.balancer(shared=model.trunk)
    for _ in trial.epochs(model=model, optimizer=optimizer, loader=batches):
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            losses = functions.Loaded().losses(model, batch)
            balancer(losses)
            sum(losses.values()).backward()
            optimizer.step()
        trial.report(functions.measure(model, "val"), test=lambda: functions.measure(model, "test"))


def test_a_function_that_seeds_by_the_clock_differs():
    finding = findings_of(functions.faulty(unseeded))["repeating"]
    assert finding.level == "warning"
    assert finding.found.startswith(
        "a second trial of the same seed differs: the losses from step 1 on, metrics after "
    )


@pytest.mark.parametrize(
    ("function", "found"),
    [
        (
            without_parts,
            "a trial that is interrupted after an epoch and resumed differs: the losses from step 9 on, ",
        ),
        (not_resumed, "an interrupted trial begins again at the first step"),
    ],
)
def test_parts_that_are_not_handed_over_are_told(function: Any, found: str):
    context = FunctionContext("x:y", functions.faulty(function), CPU)
    list(check_training(context))
    ((level, text, allowed),) = check_resuming(context)
    assert (level, text[: len(found)]) == ("warning", found)
    assert allowed.startswith("all that training changes in trial.epochs(")


def test_a_function_that_ignores_its_weights_is_found():
    context = FunctionContext("x:y", functions.faulty(without_weights), CPU)
    list(check_training(context))
    ((level, text, _),) = check_weights(context)
    assert (level, text[:59]) == ("fault", "with weight 100 for near the metrics are those of equal wei")


def test_a_fault_names_the_place_in_the_users_code():
    ((level, text, _),) = check_training(FunctionContext("x:y", functions.faulty(functions.misses_a_task), CPU))
    assert level == "fault"
    assert text.startswith("tests/helpers/training_functions.py:")
    assert text.endswith("trial.report(): expected a number for each of the tasks near, far, tiny, got none of tiny")


def test_a_shared_layer_that_is_none_is_a_fault():
    def train(trial: Trial) -> None:
        if trial.balancer(shared="trunk"):
            raise AssertionError

    context = FunctionContext("x:y", functions.faulty(train), CPU)
    context.result = functions_result()
    ((level, text, _),) = check_gradnorm(context)
    assert level == "fault"
    assert "shared: expected a module, a parameter, a list of these, or 'auto', got 'trunk'" in text


def functions_result() -> Any:
    """Return a result whose first losses are positive."""
    from hpo.core.trial import TrialResult, TrialStatus

    return TrialResult(TrialStatus.FINISHED, initial_losses={"near": 1.0})
