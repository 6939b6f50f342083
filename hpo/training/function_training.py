"""Train a trial by calling a training function. Depends only on torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from balancers.weights import LossRefused
from hpo.core.text import with_traceback
from hpo.core.trial import EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.problems.training_function import FunctionProblem
from hpo.training.callbacks import TrialCallbacks
from hpo.training.function_run import FunctionRun
from hpo.training.function_trial import StartAgain
from hpo.training.global_state import as_found
from hpo.training.left_processes import LeftProcesses
from hpo.training.members import Member
from hpo.training.ranks import ALONE, Ranks
from hpo.training.resumable_loader import seed_all


def call_once(config: TrialConfig, problem: FunctionProblem, device: torch.device) -> TrialResult:
    """Call a function as a trial without checkpoints, with its exceptions raised."""
    member = Member(config, None, config.epochs)
    with as_found():
        run = _called(member, problem, device, _NoCallbacks(), Boundary(), ALONE)
    return member.log.close(run.balancer)


class _NoCallbacks:
    """Callbacks of a trial that nobody watches."""

    def on_resumed(self, config: TrialConfig, steps: int) -> None:
        """Do nothing."""
        del config, steps

    def on_epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        """Do nothing."""
        del reports

    def on_ended(self, config: TrialConfig, result: TrialResult) -> None:
        """Do nothing."""
        del config, result


def train_function(
    member: Member,
    problem: FunctionProblem,
    device: torch.device,
    callbacks: TrialCallbacks,
    ranks: Ranks = ALONE,
) -> None:
    """Train one trial, from its newest checkpoint if it has one; see `hpo.training.trial.run_trial`.

    Args:
        ranks: the processes that train it; each calls this.
    """
    boundary, processes = Boundary(), LeftProcesses()
    with as_found() as scope:
        try:
            member.state = ranks.first("the beginning", member.latest)
            run = _called(member, problem, device, callbacks, boundary, ranks)
        except BaseException as error:  # the study continues and names the trial
            boundary.pass_on(error)
            _failed(member, error)
            run = None
        boundary.end_fork()
    result = member.log.close(None if run is None else run.balancer)
    result.alarms += member.checkpoints.warnings if member.checkpoints is not None else []
    result.alarms += [*processes.end(), *scope.alarms]
    boundary.tell(callbacks.on_ended, member.config, result)


def _called(
    member: Member,
    problem: FunctionProblem,
    device: torch.device,
    callbacks: TrialCallbacks,
    boundary: Boundary,
    ranks: Ranks,
) -> FunctionRun:
    """Call the function, once more from the first step if its checkpoint does not fit."""
    run = FunctionRun(member, problem, device, callbacks, boundary, ranks)
    try:
        seed_all(member.config.seed)
        run.call()
    except StartAgain as reason:
        run = FunctionRun(member, problem, device, callbacks, boundary, ranks)
        member.log.result.alarms.append(str(reason))
        seed_all(member.config.seed)
        run.call()
    return run


def _failed(member: Member, error: BaseException) -> None:
    """Record an exception of the function, or a method that cannot train with its losses."""
    result = member.log.result
    if isinstance(error, LossRefused):
        result.status, result.error = TrialStatus.REFUSED, str(error)
        return
    result.status, result.error = TrialStatus.FAILED, with_traceback(error)
    if isinstance(error, SystemExit):
        told = f"training function: expected a return at its end, got sys.exit({error.code!r})"
        result.error = f"{told}\n\n{result.error}"
