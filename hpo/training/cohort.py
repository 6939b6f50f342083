"""Train trials of one seed at once, with stacked parameters, or one after another. Depends only on torch.

The trials of a cohort have the same initial network and the same batches, so that one forward and one backward pass
serve all. A trial's records, checkpoints and result are those of training it alone, to within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpo.core.text import message, one_line
from hpo.core.trial import TrialConfig
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem
from hpo.problems.training_function import AnyProblem
from hpo.training.callbacks import CohortCallbacks
from hpo.training.checkpoints import Checkpoints
from hpo.training.global_state import as_found
from hpo.training.members import Member
from hpo.training.stacked_engine import StackedEngine
from hpo.training.stacked_network import NotStackable
from hpo.training.training_loop import TrainingLoop
from hpo.training.trial import train_member


def run_cohort(
    configs: Sequence[TrialConfig],
    problem: AnyProblem,
    device: torch.device,
    callbacks: CohortCallbacks,
    checkpoints: Sequence[Checkpoints | None] | None = None,
    together: bool = True,
    until: Sequence[int] | None = None,
) -> None:
    """Train trials to their end.

    Trials of one seed and length whose checkpoints are of the same step are trained together. If their networks
    cannot be stacked, or fail while stacked, the trials are trained one after another, each from its own checkpoint
    if it has one; if the memory was too small, two halves are tried first. A training function is called for one
    trial after another.

    Args:
        configs: of the trials.
        problem: the instance that the configs name.
        device: where to train.
        callbacks: called for each trial.
        checkpoints: for each config, its checkpoints, read and written.
        together: ``False`` trains one after another.
        until: for each config, the epoch at which it returns ``paused``; ``None`` trains all to the end.
    """
    kept = checkpoints or [None] * len(configs)
    ends = until or [config.epochs for config in configs]
    members = [Member(*one) for one in zip(configs, kept, ends, strict=True)]
    if together and isinstance(problem, Problem):
        _train_together(members, problem, device, callbacks)
    else:
        _train_one_by_one(members, problem, device, callbacks)


def _train_one_by_one(
    members: Sequence[Member], problem: AnyProblem, device: torch.device, callbacks: CohortCallbacks
) -> None:
    for member in members:
        train_member(member, problem, device, callbacks)


def _train_together(
    members: Sequence[Member], problem: Problem, device: torch.device, callbacks: CohortCallbacks
) -> None:
    """Train alike trials at once."""
    if len(members) > 1:
        _read_states(members)
    alike: dict[tuple[int, int, bool, int, int], list[Member]] = {}
    for member in members:
        config = member.config
        alike.setdefault((config.seed, config.epochs, config.test, member.steps, member.until), []).append(member)
    for group in alike.values():
        if len(group) == 1:
            _train_one_by_one(group, problem, device, callbacks)
        else:
            _train_stacked(group, problem, device, callbacks)


def _read_states(members: Sequence[Member]) -> None:
    """Read the newest checkpoint of each trial, or an earlier one at the last step that all trials have reached.

    If a worker was killed while it wrote them, some trials have a newer checkpoint than others.
    """
    for member in members:
        member.state = member.latest()
    common = min(member.steps for member in members)
    for member in members:
        if member.checkpoints and member.steps > common:
            earlier = member.checkpoints.latest(at_most=common)
            if earlier is not None and earlier["steps"] == common:
                member.state = earlier


def _train_stacked(
    members: Sequence[Member], problem: Problem, device: torch.device, callbacks: CohortCallbacks
) -> None:
    """Train trials at once; train those that this leaves unfinished in another way."""
    boundary = Boundary()
    loop = TrainingLoop(members, problem, device, StackedEngine, callbacks, boundary)
    why: BaseException | None = None
    with as_found() as scope:
        try:
            loop.run()
        except BaseException as error:  # from user code, vmap or memory: trained alone, each trial gets its own error
            boundary.pass_on(error)
            why = error.with_traceback(None)  # its frames hold the networks
        boundary.end_fork()
    loop.close(scope.alarms)
    left, spoilt = loop.members, loop.spoilt
    del loop  # free its memory
    refused = [member for member in left if member.is_refused]
    if refused:  # nothing has been trained yet
        _train_one_by_one(refused, problem, device, callbacks)
        _train_together([member for member in left if not member.is_refused], problem, device, callbacks)
    elif why is not None and len(left) > 2 and _is_out_of_memory(why):
        callbacks.on_alone(len(left), f"the memory is too small for {len(left)} at once: trying half of them")
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            _train_together(half, problem, device, callbacks)
    elif why is not None:
        callbacks.on_alone(len(left), "; ".join([_line(why), *scope.alarms]))
        _train_one_by_one(left, problem, device, callbacks)
    _train_one_by_one(spoilt, problem, device, callbacks)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in message(
        error, 10_000
    )


def _line(error: BaseException) -> str:
    return message(error) if isinstance(error, NotStackable) else one_line(error)
