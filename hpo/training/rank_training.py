"""One of the processes that train a trial together. Depends only on torch."""

from __future__ import annotations

from typing import Any

import torch

from hpo.core.place import Place
from hpo.core.storage import Storage
from hpo.core.text import with_traceback
from hpo.core.trial import EventKind, TrialResult, TrialStatus, WorkerTask
from hpo.core.user_calls import Boundary
from hpo.training.checkpoints import Checkpoints
from hpo.training.members import Member
from hpo.training.ranks import Ranks, announced, join, leave
from hpo.training.trial import train_member
from hpo.training.worker import EventReporter, Report, asked_for, device_of, problem_of

TOGETHER = (TrialStatus.FINISHED, TrialStatus.PAUSED, TrialStatus.DIVERGED)  # the same on every rank, at once


def train_rank(task: WorkerTask, storage: str, place: Place, store: Any, report: Report) -> TrialResult:
    """Train a trial as one of its processes.

    A process in which the user's code fails does not leave the process group, so that the others wait for it instead
    of failing for its absence; whoever has started them ends them.

    Args:
        task: of one trial.
        storage: address of the folder of the study's checkpoints.
        place: of this process.
        store: `listening` on rank 0, ``None`` on others.
        report: takes the events of rank 0 as of `train_cohort`, except the result, which is returned.
    """
    (trial,) = asked_for(task)
    kept = Storage(storage)
    device, note = device_of(task.gpu, place.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    checkpoints = Checkpoints(kept, trial.identity, task.checkpoint_seconds)
    member = Member(trial, checkpoints, task.until[0])
    results: list[TrialResult] = []

    def tell(told: dict[str, Any]) -> None:
        results.extend(event.content for event in told["events"] if event.kind is EventKind.RESULT)
        if place.rank == 0 and not results:
            report(told)

    with announced(place):
        ranks, device = join(place, store, device)
        _train(member, task, device, EventReporter(tell, kept, note, cleans=False), ranks)
        (result,) = results
        if result.status in TOGETHER:
            leave(ranks)
    return result


def _train(member: Member, task: WorkerTask, device: torch.device, voice: EventReporter, ranks: Ranks) -> None:
    boundary = Boundary()
    try:
        problem = problem_of(task, [member.config])
    except BaseException as error:
        boundary.pass_on(error)
        voice.on_ended(member.config, TrialResult(TrialStatus.FAILED, error=with_traceback(error)))
        return
    boundary.end_fork()
    train_member(member, problem, device, voice, ranks)
