"""Train one trial: one problem, method, settings and seed. Depends only on torch, so that it can be profiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from balancers.weights import LossRefused
from hpo.core.text import with_traceback
from hpo.core.trial import EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem
from hpo.problems.training_function import AnyProblem, FunctionProblem
from hpo.training.callbacks import TrialCallbacks
from hpo.training.checkpoints import Checkpoints
from hpo.training.engines import EngineFactory
from hpo.training.function_training import train_function
from hpo.training.global_state import as_found
from hpo.training.members import Member
from hpo.training.rank_engine import RankEngine
from hpo.training.ranks import ALONE, Ranks
from hpo.training.recorder import Diverged
from hpo.training.single_engine import SingleEngine
from hpo.training.training_loop import TrainingLoop


def run_trial(
    config: TrialConfig,
    problem: AnyProblem,
    report: Callable[[EpochReport], None],
    device: torch.device,
    checkpoints: Checkpoints | None = None,
    resumed: Callable[[int], object] = abs,
    until: int | None = None,
) -> TrialResult:
    """Train a trial to its end; errors of the user's code and values that are not finite are returned as a status.

    Afterwards the process's global state is restored, whatever the user's code has changed. Exceptions of ``report``
    and ``resumed``, and a Ctrl-C in the main thread, are raised here too.

    Args:
        config: of the trial.
        problem: the instance that ``config.problem`` and ``config.arguments`` name.
        report: called after each epoch, and again for each epoch before the checkpoint that a trial continues from.
        device: where to train.
        checkpoints: to resume from and to write; ``None`` starts at the first step and writes none.
        resumed: called with the steps of the checkpoint that it continues from.
        until: the epoch at which it writes a checkpoint and returns ``paused``; ``None`` trains to the end.
    """
    callbacks = _Functions(report, resumed)
    train_member(Member(config, checkpoints, until or config.epochs), problem, device, callbacks)
    (result,) = callbacks.results
    return result


def train_member(
    member: Member,
    problem: AnyProblem,
    device: torch.device,
    callbacks: TrialCallbacks,
    ranks: Ranks = ALONE,
) -> None:
    """Train one trial by itself, from its newest checkpoint if it has one, as `run_trial` does.

    Args:
        ranks: the processes that train it; each calls this.
    """
    if isinstance(problem, FunctionProblem):
        train_function(member, problem, device, callbacks, ranks)
    else:
        _train_alone(member, problem, device, callbacks, ranks)


def _train_alone(
    member: Member, problem: Problem, device: torch.device, callbacks: TrialCallbacks, ranks: Ranks
) -> None:
    boundary = Boundary()
    engine: EngineFactory = SingleEngine if ranks.size == 1 else partial(RankEngine, ranks=ranks)
    with as_found() as scope:
        loop = TrainingLoop([member], problem, device, engine, callbacks, boundary, ranks)
        try:
            member.state = ranks.first("the beginning", member.latest)
            loop.run()
        except Diverged as error:
            loop.end(TrialStatus.DIVERGED, str(error))
        except LossRefused as error:
            boundary.end_fork()
            loop.end(TrialStatus.REFUSED, str(error))
        except BaseException as error:  # the study continues and names the trial
            boundary.pass_on(error)
            loop.end(TrialStatus.FAILED, with_traceback(error))
        boundary.end_fork()
    loop.close(scope.alarms)


class _Functions:
    """The functions given to `run_trial`, as callbacks of the loop."""

    def __init__(self, report: Callable[[EpochReport], None], resumed: Callable[[int], object]) -> None:
        self._report, self._resumed = report, resumed
        self.results: list[TrialResult] = []

    def on_resumed(self, config: TrialConfig, steps: int) -> None:
        del config
        self._resumed(steps)

    def on_epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        for _, report in reports:
            self._report(report)

    def on_ended(self, config: TrialConfig, result: TrialResult) -> None:
        del config
        self.results.append(result)
