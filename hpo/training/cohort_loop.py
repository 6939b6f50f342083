"""The training loop of K stacked trials: `trial_loop` for many, with one forward and one backward pass for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from balancers import Balancer, Stack
from hpo.core.trial import EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem, to_device
from hpo.training.cohort_members import CohortCallbacks, CohortMember
from hpo.training.one_by_one import one_by_one
from hpo.training.parts import Parts, add_gap, evaluate, of_length
from hpo.training.recorder import Diverged, StepBuffer, TrialRecorder
from hpo.training.resumable_loader import read_state, set_state
from hpo.training.stacked_network import StackedNetwork

Found = TypeVar("Found")


@dataclass(eq=False)
class _Member:
    place: CohortMember
    log: TrialRecorder

    def told(self, tell: Callable[[TrialRecorder], Found]) -> Found | None:
        """What the recorder says to something; ``None`` if the trial has diverged."""
        try:
            return tell(self.log)
        except Diverged as error:
            self.log.result.status, self.log.result.error = TrialStatus.DIVERGED, str(error)
            return None


class CohortLoop:
    """One run of the training loop for several trials.

    Attributes:
        members: the trials that have no result yet.
    """

    def __init__(
        self,
        places: Sequence[CohortMember],
        problem: Problem,
        device: torch.device,
        ear: CohortCallbacks,
        boundary: Boundary,
    ) -> None:
        self.device, self.ear, self.boundary = device, ear, boundary
        self.config, self.until = places[0].config, min(places[0].until, places[0].config.epochs)
        self.problem = problem
        self.tasks = [task.name for task in problem.tasks]
        self.members = [_Member(place, TrialRecorder(place.config, self.tasks)) for place in places]
        for member in self.members:
            member.log.result.together = len(places)
        self.rows = StepBuffer()
        self.steps, self.clock = 0, 0.0
        self._last: tuple[TrialConfig, TrialResult] | None = None

    def run(self) -> None:
        """Train to the end; each trial's result is handed over when it has one, the last one's by `close`."""
        self.problem = of_length(self.problem, self.config.epochs)
        self._build()
        batches = self._resume()
        while self.members and len(self.members[0].log.reports) < self.until:
            self._epoch(batches or self.parts.order.epoch())
            batches = None
        if self.until < self.config.epochs:
            self._pause(batches)
        for k, balancer in enumerate(self.stack.balancers() if self.members else []):
            member = self.members[0]
            if self.config.test and self.until == self.config.epochs:
                self._test(member, self.network.member(k))
            self._end(member, balancer)

    def _build(self) -> None:
        self.parts = Parts.build(self.problem, self.config.seed, self.device)
        self.boundary.end_fork()
        balancers = [self.parts.balancer(member.place.config, self.tasks) for member in self.members]
        self.network = StackedNetwork(self.problem, self.parts, len(self.members))
        for balancer, member in zip(balancers, self.members, strict=True):
            if member.place.state is not None:
                balancer.load_state_dict(member.place.state["balancer"])
        self.stack = Stack(balancers, self.network.shared)

    def _resume(self) -> Iterator[Any] | None:
        """Go on from the checkpoints: the rest of their epoch; ``None`` begins at the first step."""
        states = [member.place.state for member in self.members if member.place.state is not None]
        if not states:
            return None
        self.network.load(states)
        blocks = [member.log.load(state) for member, state in zip(self.members, states, strict=True)]
        self.rows.load([torch.stack(rows, dim=2) for rows in zip(*blocks, strict=True)])
        self.steps = self.members[0].place.steps
        for member in self.members:
            self.ear.resumed(member.place.config, self.steps)
        for past in zip(*(member.log.reports for member in self.members), strict=True):
            self.ear.epochs([(m.place.config, report) for m, report in zip(self.members, past, strict=True)])
        return self.parts.order.resume(states[0]["order"], len(self.members[0].log.reports))

    def _epoch(self, batches: Iterator[Any]) -> None:
        self.parts.model.train()
        self.clock = time.perf_counter()
        for batch in batches:
            self._step(batch)
            self.boundary.end_fork()
            if all(m.place.checkpoints is not None and m.place.checkpoints.due for m in self.members):
                self._save()
        block = self.rows.take()  # waits for the device
        self._stop_clock()
        means = [m.told(partial(_end_steps, block=block[:, :, k])) for k, m in enumerate(self.members)]
        reports = self._validate(means)
        self.ear.epochs(reports)
        self._drop_diverged()

    def _pause(self, batches: Iterator[Any] | None) -> None:
        """Leave the trials at the beginning of their next epoch, or where their checkpoints were."""
        for member in self.members:
            member.log.result.status = TrialStatus.PAUSED
        if batches is None and all(member.place.checkpoints is not None for member in self.members):
            self.parts.order.epoch()
            self.clock = time.perf_counter()
            self._save()

    def _step(self, batch: Any) -> None:
        self.boundary.end_fork()  # of the loader
        self.network.optimizer.zero_grad(set_to_none=True)
        losses = self.network.losses(to_device(batch, self.device))
        self.boundary.end_fork()  # before torch's threads are asked for something, which a child has not
        if self.steps == 0:  # they are the same for all; if they will not do, each trial says so alone
            columns = {task: loss.detach().tolist() for task, loss in losses.items()}
            for k, member in enumerate(self.members):
                member.log.begin({task: column[k] for task, column in columns.items()})
        self.stack.backward(losses)
        self.network.optimizer.step()
        assert self.stack.last is not None
        self.rows.add(self.stack.last)
        self.steps += 1
        for member in self.members:
            member.log.result.steps = self.steps

    def _stop_clock(self) -> None:
        """Count the seconds since the clock was read last as training, in equal shares."""
        now = time.perf_counter()
        for member in self.members:
            member.log.result.seconds += (now - self.clock) / len(self.members)
        self.clock = now

    def _validate(self, means: Sequence[Any]) -> list[tuple[TrialConfig, EpochReport]]:
        """Evaluate each trial that has not diverged; it finds the random generators as it would alone."""
        before, after, reports = read_state(self.device), None, []
        for k, (member, own) in enumerate(zip(self.members, means, strict=True)):
            if own is None:
                continue
            set_state(before, self.device)
            metrics = evaluate(self.problem, self.network.member(k), "val")
            self.boundary.end_fork()
            after = after or read_state(self.device)
            report = member.told(partial(TrialRecorder.end_epoch, means=own, validation=metrics))
            if report is not None:
                reports.append((member.place.config, report))
        set_state(after or before, self.device)
        return reports

    def _test(self, member: _Member, model: nn.Module) -> None:
        """Read the test split, and the training split for the report's gap."""
        metrics = evaluate(self.problem, model, "test")
        self.boundary.end_fork()
        tested = member.told(lambda log: log.measured("test", metrics))
        if tested is not None:
            member.log.result.test = tested
            add_gap(member.log, lambda: evaluate(self.problem, model, "train"))

    def _save(self) -> None:
        """Write the checkpoint of each trial; the seconds it takes are not training."""
        rows = self.rows.read()  # waits for the device
        self._stop_clock()
        order = self.parts.order.state()
        for k, (member, balancer) in enumerate(zip(self.members, self.stack.balancers(), strict=True)):
            state = {
                **self.network.state(k),
                "balancer": member.log.quietly(balancer.state_dict),
                "order": order,
                **member.log.state([block[:, :, k].clone() for block in rows]),
            }
            assert member.place.checkpoints is not None
            member.place.checkpoints.save(self.steps, state)
        self.clock = time.perf_counter()

    def _drop_diverged(self) -> None:
        """End the trials that have diverged and go on without them.

        A task that a single-task trial does not train may have taken the trained one with it, since 0 times NaN is
        NaN: such a trial is trained again, alone.
        """
        kept = [k for k, member in enumerate(self.members) if member.log.result.status is TrialStatus.FINISHED]
        gone = [member for member in self.members if member.log.result.status is not TrialStatus.FINISHED]
        if not gone:
            return
        if kept:
            self.network.keep(kept)
            self.stack = self.stack.keep(kept, self.network.shared)
        for member in gone:
            if member.place.config.method == "single_task":
                self.members.remove(member)
                one_by_one([member.place], self.problem, self.device, self.ear)
            else:
                self._end(member, None)

    def _end(self, member: _Member, balancer: Balancer | None) -> None:
        """Hand over the result of a trial; the last one waits for `close`."""
        result = member.log.close(balancer)
        result.alarms += member.place.checkpoints.warnings if member.place.checkpoints is not None else []
        self.members.remove(member)
        if self.members:
            self.ear.ended(member.place.config, result)
        else:
            self._last = member.place.config, result

    def close(self, alarms: Sequence[str]) -> None:
        """Hand over the last result, with what is known when the run is over."""
        if self._last is not None:
            config, result = self._last
            result.alarms += alarms
            self.ear.ended(config, result)


def _end_steps(log: TrialRecorder, block: Tensor) -> dict[str, dict[str, float]]:
    return log.end_steps(block.contiguous())
