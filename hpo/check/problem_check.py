"""One step of everything on a user's problem, before a study trains it many times. Depends only on torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from hpo.check import (
    data_checks,
    function_checks,
    loss_checks,
    network_checks,
    shared_layer_check,
    training_checks,
)
from hpo.check.context import CheckContext, Level, Notes, Watched, loaded
from hpo.check.function_checks import FunctionContext
from hpo.check.user_tracebacks import told
from hpo.core.command_folder import in_another_folder
from hpo.core.user_calls import is_interrupt
from hpo.problems.training_function import FunctionProblem
from hpo.training.global_state import as_found
from hpo.training.resumable_loader import read_state, set_state

__all__ = ["Finding", "Level", "check_problem"]

Seen = TypeVar("Seen", bound=Watched)
Checks = list[tuple[str, tuple[str, ...], Callable[[Seen], Notes]]]

# The checks in order: subject, subjects that must have passed before, function.
CHECKS: Checks[CheckContext] = [
    ("tasks", (), data_checks.check_tasks),
    ("data", (), data_checks.check_data),
    ("model", ("data",), network_checks.check_model),
    ("batches", ("data",), data_checks.check_batches),
    ("splits", ("batches",), data_checks.check_splits),
    ("resuming", ("batches",), data_checks.check_resuming),
    ("losses", ("model", "batches"), loss_checks.check_losses),
    ("shared layer", ("losses",), shared_layer_check.check_shared_layer),
    ("parameters", ("losses",), network_checks.check_parameters),
    ("optimizer", ("model",), network_checks.check_optimizer),
    ("GradNorm", ("shared layer", "optimizer"), network_checks.check_gradnorm),
    ("memory", ("GradNorm",), network_checks.check_memory),
    ("evaluate", ("model", "batches"), training_checks.check_evaluate),
    ("learning", ("evaluate", "GradNorm"), training_checks.check_learning),
    ("epochs", ("learning",), training_checks.check_epochs),
    ("time", ("evaluate", "GradNorm"), training_checks.check_time),
    ("cohort", ("evaluate", "GradNorm"), training_checks.check_cohort),
    ("data hash", ("data",), data_checks.check_hash),
    ("global state", (), data_checks.check_global_state),
]

# Of a training function, which is called whole.
FUNCTION_CHECKS: Checks[FunctionContext] = [
    ("tasks", (), data_checks.check_tasks),
    ("data hash", (), function_checks.check_hash),  # before training, which may change a value that the code uses
    ("training", (), function_checks.check_training),
    ("repeating", ("training",), function_checks.check_repeating),
    ("resuming", ("training",), function_checks.check_resuming),
    ("weights", ("training",), function_checks.check_weights),
    ("GradNorm", ("training",), function_checks.check_gradnorm),
    ("time", ("training",), function_checks.check_time),
    ("cohort", (), function_checks.check_cohort),
]


@dataclass(frozen=True)
class Finding:
    """One finding of `check_problem`.

    Attributes:
        level: with a ``fault`` a study fails or is meaningless; a ``warning`` may be intended.
        subject: what was checked.
        found: what was found.
        allowed: what was expected, or what to do; empty if all is well.
    """

    level: Level
    subject: str
    found: str
    allowed: str = ""


def check_problem(
    name: str,
    arguments: Mapping[str, Any],
    device: torch.device,
    tell: Callable[[str], object] = str,
    on_finding: Callable[[Finding], object] = repr,
) -> list[Finding]:
    """Run one step of everything on a problem. Takes seconds plus the time to prepare and to evaluate.

    A training function is called several times, for one or two epochs each. The current folder is another one
    meanwhile, as in a worker.

    Args:
        name: a registered name, or ``package.module:Class``.
        arguments: keyword arguments of the class or function.
        device: where trials would train.
        tell: called with the subject that is checked next.
        on_finding: called with each finding as soon as it is known.

    Returns:
        The findings in the order of the checks; a check whose precondition failed is omitted and named at the end. An
        exception of the user's own code is a fault with the file and the line.

    Raises:
        ProblemError: no such problem, or not with these arguments; see `hpo.problems.load_problem`.
    """
    problem = loaded(name, arguments)
    before = read_state(device)
    try:
        with as_found(), in_another_folder():
            if isinstance(problem, FunctionProblem):
                return _run(FunctionContext(name, problem, device), FUNCTION_CHECKS, tell, on_finding)
            return _run(CheckContext(name, arguments, problem, device), CHECKS, tell, on_finding)
    finally:
        set_state(before, device)  # restore the caller's generators


def _run(
    context: Seen, checks: Checks[Seen], tell: Callable[[str], object], on_finding: Callable[[Finding], object]
) -> list[Finding]:
    findings: list[Finding] = []
    broken: set[str] = set()
    left_out: list[str] = []
    for subject, needs, check in checks:
        if not broken.isdisjoint(needs):
            broken.add(subject)
            left_out.append(subject)
            continue
        tell(subject)
        found = [Finding(level, subject, *texts) for level, *texts in _guarded(subject, check, context)]
        if any(finding.level == "fault" for finding in found):
            broken.add(subject)
        findings += found
        for finding in found:
            on_finding(finding)
    if left_out:
        findings.append(Finding("warning", "not looked at", ", ".join(left_out), "fix the faults first"))
        on_finding(findings[-1])
    return findings


def _guarded(subject: str, check: Callable[[Seen], Notes], context: Seen) -> list[tuple[Level, str, str]]:
    """Return the findings of a check, including an exception of the user's code.

    Each check runs in the global state after ``build_model()``, like the rest of a trial.
    """
    notes: list[tuple[Level, str, str]] = []
    with as_found():
        if context.state is not None:
            context.state.put_back()
        try:
            with context.watched(subject):
                notes.extend(check(context))
        except BaseException as error:
            if is_interrupt(error):
                raise
            notes.append(("fault", told(error, context.folders), ""))
    return notes
