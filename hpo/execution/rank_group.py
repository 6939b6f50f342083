"""The processes of a trial that several processes train: started, watched and ended by the worker of Tune.

The worker itself takes no resources and does not train, so that it can end processes that wait for each other in
a collective call. It keeps its processes for the next trial.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpo.core.place import places_of
from hpo.core.storage import Storage
from hpo.core.text import one_line
from hpo.core.trial import Event, EventKind, TrialResult, TrialStatus, WorkerTask
from hpo.execution.rank_process import THREADS, Home, RankProcess

FAILED = (TrialStatus.FAILED, TrialStatus.REFUSED)  # which a single process may find; the others then wait for it
ANSWER_SECONDS = 10.0  # for a process that is alive to say so
LATER_SECONDS = 2.0  # after which rank 0 would have failed of the same cause


class RankDiedError(RuntimeError):
    """A process of a trial has died, so that the attempt at the trial is over."""


class RankGroup:
    """The processes of a worker's trials, one in each bundle of its placement group.

    Args:
        placement: of the worker.
        cpu, gpu: resources of each process.
    """

    def __init__(self, placement: Any, cpu: float, gpu: float) -> None:
        actor: Any = ray.remote(RankProcess)
        self._actors = [
            actor.options(
                num_cpus=cpu,
                num_gpus=gpu,
                max_concurrency=THREADS,
                scheduling_strategy=PlacementGroupSchedulingStrategy(placement, placement_group_bundle_index=number),
            ).remote()
            for number in range(placement.bundle_count)
        ]
        self._homes: list[Home] = []

    def train(self, task: WorkerTask, storage: str, problem: bytes, report: Any) -> None:
        """Train one trial and report it as `train_cohort` does.

        Raises:
            RankDiedError: a process has died; the others have been ended.
        """
        try:
            result = self._train(task, storage, problem, report)
        except BaseException:
            self.end()
            raise
        if result.status in FAILED:
            self.end()
            if result.status is TrialStatus.FAILED:  # it runs again from its first step, see `EventReporter`
                with suppress(OSError):
                    Storage(storage).remove(task.identities[0])
        report({"events": [Event(EventKind.RESULT, task.identities[0], result)], "count": 1})

    def end(self) -> None:
        """Kill all processes."""
        for actor in self._actors:
            with suppress(RayError):
                ray.kill(actor)
        self._actors = []

    @property
    def is_usable(self) -> bool:
        """True until the processes are ended."""
        return bool(self._actors)

    def _train(self, task: WorkerTask, storage: str, problem: bytes, report: Any) -> TrialResult:
        running = self._begun(task, storage, problem)
        told = self._actors[0].reports.remote()
        results: dict[int, TrialResult] = {}
        while running or told is not None:
            (ref,), _ = ray.wait([*running, *([told] if told is not None else [])], num_returns=1)
            if ref == told:
                reports = self._got(ref, 0)
                told = self._actors[0].reports.remote() if reports else None
                for one in reports:
                    report(one)
                continue
            rank = running.pop(ref)
            results[rank] = self._got(ref, rank)
            if results[rank].status in FAILED:
                return self._failed(rank, results, running)
        return _joined(results)

    def _begun(self, task: WorkerTask, storage: str, problem: bytes) -> dict[Any, int]:
        """Start the trial in every process; return the rank of each answer to come."""
        if not self._homes:
            self._settle()
        host = self._homes[0].host
        port = self._got(self._actors[0].listen.remote(host), 0)
        places = places_of([home.node for home in self._homes], host, port)
        return {
            actor.train.remote(task, storage, place, problem): place.rank
            for actor, place in zip(self._actors, places, strict=True)
        }

    def _settle(self) -> None:
        """Order the processes by node, since some libraries number those of a node consecutively."""
        asked = [actor.home.remote() for actor in self._actors]
        homes = [self._got(ref, number) for number, ref in enumerate(asked)]
        nodes = list(dict.fromkeys(home.node for home in homes))
        order = sorted(range(len(homes)), key=lambda number: nodes.index(homes[number].node))
        self._actors = [self._actors[number] for number in order]
        self._show_gpus([homes[number] for number in order])
        self._homes = [homes[number] for number in order]

    def _show_gpus(self, homes: list[Home]) -> None:
        """Let each process see the GPUs of all on its node, its own one at the place of its local rank."""
        for rank, home in enumerate(homes):
            near = [other for other in homes if other.node == home.node]
            own, more = [other.gpus[0] for other in near if other.gpus], [g for one in near for g in one.gpus[1:]]
            if own:
                self._got(self._actors[rank].see.remote([*own, *more]), rank)

    def _failed(self, rank: int, results: dict[int, TrialResult], running: dict[Any, int]) -> TrialResult:
        """Return the result of a trial of which a process has failed.

        Raises:
            RankDiedError: another process has died, which may be the cause.
        """
        answers = {self._actors[other].alive.remote(): other for other in running.values()}
        done, late = (
            ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_SECONDS) if answers else ([], [])
        )
        for ref in done:
            self._got(ref, answers[ref])
        if late:
            raise RankDiedError(f"rank {answers[late[0]]} of {len(self._homes)} does not answer")
        if rank == 0:
            return results[0]
        first = next((ref for ref, other in running.items() if other == 0), None)
        if first is not None and ray.wait([first], timeout=LATER_SECONDS)[0]:
            found: TrialResult = self._got(first, 0)
            if found.status in FAILED:
                return found
        cause = results[rank]
        return replace(cause, error=f"rank {rank} of {len(self._homes)}: {cause.error}", trajectory={})

    def _got(self, ref: Any, rank: int) -> Any:
        """Return the answer of a process.

        Raises:
            RankDiedError: it has died, or has raised an exception of ours.
        """
        try:
            return ray.get(ref)
        except RayError as error:
            text = f"rank {rank} of {len(self._actors)} has died: {one_line(error, 1000)}"
            raise RankDiedError(text) from error


def _joined(results: dict[int, TrialResult]) -> TrialResult:
    """Return the result of rank 0 with the alarms that only others have."""
    first = results[0]
    for rank, other in sorted(results.items()):
        first.alarms += [f"rank {rank}: {text}" for text in other.alarms if rank and text not in first.alarms]
    return first


_kept: dict[Any, RankGroup] = {}  # of this worker, by its placement group


def train_in_ranks(task: WorkerTask, storage: str, problem: bytes, report: Any) -> None:
    """Train a trial in the processes of this worker, which are started unless they run."""
    placement = ray.util.get_current_placement_group()
    group = _kept.pop(placement.id, None) or RankGroup(placement, task.cpu, task.gpu)
    group.train(task, storage, problem, report)
    if group.is_usable:
        _kept[placement.id] = group
