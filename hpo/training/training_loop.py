"""The training loop: one trial, or several of one seed at once, from the first step or a checkpoint to results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from balancers import Balancer
from balancers.weights import LossRefused
from hpo.core.text import one_line
from hpo.core.trial import EpochMetrics, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem, Split
from hpo.training.callbacks import TrialCallbacks
from hpo.training.engines import Engine, EngineFactory
from hpo.training.members import Member
from hpo.training.methods import METHODS
from hpo.training.parts import Parts, add_gap, evaluate, in_turn, of_length
from hpo.training.ranks import ALONE, Ranks
from hpo.training.recorder import StepBuffer, TrialRecorder
from hpo.training.resumable_loader import read_state, set_state


class TrainingLoop:
    """One run of the training loop.

    It keeps the order of things, the clock, the records and the checkpoints, each trial's in the form that it has
    alone. An `Engine` makes the steps.

    Args:
        members: trials of one seed, length and ``until``, whose checkpoints, if any, are after the same step.
        problem: the instance that their configs name.
        device: where to train.
        engine: makes the engine of the members.
        callbacks: called for each trial; what they raise goes through `run` and `close`.
        boundary: of this run, to the user's code.
        ranks: the processes that train them.

    Attributes:
        members: the trials that have no result yet.
        spoilt: single-task trials that another task has made diverge, as `Engine.mixes_tasks` says; they have to be
            trained alone.
    """

    def __init__(
        self,
        members: Sequence[Member],
        problem: Problem,
        device: torch.device,
        engine: EngineFactory,
        callbacks: TrialCallbacks,
        boundary: Boundary,
        ranks: Ranks = ALONE,
    ) -> None:
        self._ranks = ranks
        self.members, self.spoilt = list(members), list[Member]()
        self.problem, self.device = problem, device
        self.config = members[0].config
        self.until = min(members[0].until, self.config.epochs)
        self._make_engine, self._callbacks, self._boundary = engine, callbacks, boundary
        self._last: tuple[Member, Balancer | None] | None = None
        self._begin()

    def _begin(self) -> None:
        """Nothing has been trained."""
        for member in self.members:
            member.begin(self.problem.tasks, len(self.members))
        self._rows, self._steps, self._clock = StepBuffer(), 0, 0.0

    def run(self) -> None:
        """Train to the end; each trial's result is handed over when it has one, the last one's by `close`.

        Raises:
            Diverged: a first loss is not finite.
            BaseException: of the user's code, of a callback.
        """
        self.problem = of_length(self.problem, self.config.epochs)
        self._build()
        batches = self._resume()
        while self.members and len(self.members[0].log.reports) < self.until:
            self._epoch(batches or self._parts.order.epoch())
            batches = None
        if self.members and self.until < self.config.epochs:
            self._pause(batches)
        self._finish()

    def end(self, status: TrialStatus, error: str) -> None:
        """End the trials that have no result yet."""
        for member in list(self.members):
            member.log.result.status, member.log.result.error = status, error
            self._end(member, None)

    def close(self, alarms: Sequence[str]) -> None:
        """Hand over the last result once the global state is put back, with the alarms of that."""
        if self._last is not None:
            self._hand_over(*self._last, alarms)

    # --- the beginning

    def _build(self) -> None:
        self._parts = Parts.build(self.problem, self.config.seed, self.device)
        self._boundary.end_fork()
        configs = [member.config for member in self.members]
        self._engine: Engine = self._make_engine(self.problem, self._parts, configs, self.device)

    def _resume(self) -> Iterator[Any] | None:
        """Continue from the checkpoints: the rest of their epoch; ``None`` begins at the first step."""
        states = [member.state for member in self.members if member.state is not None]
        for member in self.members:
            member.state = None  # it may be large
        if not states:
            return None
        fault, batches = "", None
        try:
            batches = self._load(states)
        except BaseException as error:  # the user's model or loader may have changed since
            self._boundary.pass_on(error)
            if len(self.members) > 1:
                raise  # each alone finds out whether its own fits
            fault = one_line(error)
        if faults := [fault for fault in self._ranks.all("a checkpoint", fault) if fault]:
            self._begin()
            text = f"began at the first step, since its checkpoint does not fit: {faults[0]}"
            self.members[0].log.result.alarms.append(text)
            self._build()
            return None
        self._tell_past()
        return batches

    def _load(self, states: Sequence[Mapping[str, Any]]) -> Iterator[Any]:
        self._engine.load(states)
        self._rows.load([member.log.load(state) for member, state in zip(self.members, states, strict=True)])
        log = self.members[0].log
        self._steps = log.result.steps
        return self._parts.order.resume(states[0]["order"], len(log.reports))

    def _tell_past(self) -> None:
        """Report that the trials continue, and the epochs before their checkpoints."""
        for member in self.members:
            self._boundary.tell(self._callbacks.on_resumed, member.config, self._steps)
        for past in zip(*(member.log.reports for member in self.members), strict=True):
            reports = [(member.config, report) for member, report in zip(self.members, past, strict=True)]
            self._boundary.tell(self._callbacks.on_epochs, reports)

    # --- an epoch

    def _epoch(self, batches: Iterator[Any]) -> None:
        self._parts.model.train()
        self._clock = time.perf_counter()
        for batch in batches:
            self._step(batch)
            self._boundary.end_fork()
            if self._ranks.agree(self._is_due):
                self._save()
        self._engine.end_epoch()
        block = self._rows.take()  # waits for the device
        self._stop_clock()
        self._validate(block)
        self._drop_diverged()

    def _is_due(self) -> bool:
        return all(member.checkpoints is not None and member.checkpoints.due for member in self.members)

    def _step(self, batch: Any) -> None:
        self._boundary.end_fork()  # of the loader
        losses = self._engine.losses(batch)
        self._boundary.end_fork()  # before torch's threads are asked for something, which a child has not
        if self._steps == 0:
            for member, first in zip(self.members, self._engine.first_losses(losses), strict=True):
                member.log.begin(first)
            _leave_out(self.members)
        self._rows.add(self._engine.step(losses))
        self._steps += 1
        for member in self.members:
            member.log.result.steps = self._steps

    def _validate(self, block: Tensor) -> None:
        """End the epoch of each trial that has not diverged with its metrics, and report them."""
        means = [m.told(partial(_end_steps, block=block[:, :, k])) for k, m in enumerate(self.members)]
        reports = []
        for k in in_turn([k for k, own in enumerate(means) if own is not None], self.device):
            member, metrics = self.members[k], self._evaluate(k, "val")
            report = member.told(partial(TrialRecorder.end_epoch, means=means[k] or {}, validation=metrics))
            if report is not None and member.log.may_be_best and self.config.test:
                self._test_best(k, member)
            if report is not None:
                reports.append((member.config, report))
        if reports:
            self._boundary.tell(self._callbacks.on_epochs, reports)

    def _evaluate(self, k: int, split: Split) -> dict[str, float]:
        network = self._engine.network(k)
        measure = partial(evaluate, self.problem, network, split, self.device)
        metrics = self._ranks.first(f"evaluate(model, {split!r})", measure, measure)
        self._boundary.end_fork()
        return metrics

    def _drop_diverged(self) -> None:
        """End the trials that have diverged and continue without them."""
        kept = [k for k, member in enumerate(self.members) if not member.has_diverged]
        gone = [member for member in self.members if member.has_diverged]
        if gone and kept:
            self._engine.keep(kept)
        if self._engine.mixes_tasks:
            self.spoilt += [member for member in gone if member.config.method == "single_task"]
            self.members = [member for member in self.members if member not in self.spoilt]
        for member in gone:
            if member in self.members:
                self._end(member, None)

    # --- the clock and the checkpoints

    def _stop_clock(self) -> None:
        """Count the seconds since the clock was read last as training, in equal shares."""
        now = time.perf_counter()
        for member in self.members:
            member.log.result.seconds += (now - self._clock) / len(self.members)
        self._clock = now

    def _save(self) -> None:
        """Write the checkpoint of each trial between two steps; the seconds it takes are not training."""
        rows = self._rows.read()  # waits for the device
        self._stop_clock()
        order = self._parts.order.state()
        for k, (member, balancer) in enumerate(zip(self.members, self._engine.balancers(), strict=True)):
            state = {
                **self._engine.state(k),
                "balancer": member.log.quietly(balancer.state_dict),
                "order": order,
                **member.log.state([block[:, :, k].clone() for block in rows]),
            }
            assert member.checkpoints is not None
            if self._ranks.is_first:
                member.checkpoints.save(self._steps, state)
        self._clock = time.perf_counter()

    # --- the end

    def _pause(self, batches: Iterator[Any] | None) -> None:
        """Leave the trials at the beginning of their next epoch, or where their checkpoints were."""
        for member in self.members:
            member.log.result.status = TrialStatus.PAUSED
        if batches is None and all(member.checkpoints is not None for member in self.members):
            self._parts.order.epoch()
            self._clock = time.perf_counter()
            self._save()

    def _finish(self) -> None:
        """End the trials that are left, with their metrics on the test split if they are to have them."""
        left = list(self.members)
        balancers = self._engine.balancers() if left else []
        for k in in_turn(range(len(left)), self.device):
            if self.config.test and left[k].config.select == "last" and self.until == self.config.epochs:
                self._test(k, left[k], left[k].log.result)
            self._end(left[k], balancers[k])

    def _test(self, k: int, member: Member, into: TrialResult | EpochMetrics) -> None:
        """Read the test split, and the training split for the report's gap."""
        metrics = self._evaluate(k, "test")
        tested = member.told(lambda log: log.measured("test", metrics))
        if tested is not None:
            into.test = tested
            add_gap(member.log, into, lambda: self._evaluate(k, "train"))

    def _test_best(self, k: int, member: Member) -> None:
        """Read the test split after an epoch that may be the best; training goes on as if it had not been read."""
        before = read_state(self.device)
        self._test(k, member, member.log.result.best_epochs[-1])
        set_state(before, self.device)

    def _end(self, member: Member, balancer: Balancer | None) -> None:
        """Hand over the result of a trial; the last one waits for `close`."""
        if len(self.members) > 1:
            self._hand_over(member, balancer)
        else:
            self._last = member, balancer
        self.members.remove(member)

    def _hand_over(self, member: Member, balancer: Balancer | None, alarms: Sequence[str] = ()) -> None:
        result = member.log.close(balancer)
        result.alarms += member.checkpoints.warnings if member.checkpoints is not None else []
        result.alarms += alarms
        self._boundary.tell(self._callbacks.on_ended, member.config, result)


def _leave_out(members: Sequence[Member]) -> None:
    """Find the members of a cohort whose methods refuse their first losses; alone, the method itself says why.

    Raises:
        LossRefused: there are some; they are marked, and the others start again without them.
    """
    if len(members) == 1:
        return
    for member in members:
        config, first = member.config, member.log.result.initial_losses
        member.is_refused = METHODS[config.method].positive(config.settings) and min(first.values()) < 0
    if refused := [member for member in members if member.is_refused]:
        raise LossRefused(f"{len(refused)} of {len(members)} methods cannot train with losses below 0")


def _end_steps(log: TrialRecorder, block: Tensor) -> dict[str, dict[str, float]]:
    return log.end_steps(block.contiguous())
