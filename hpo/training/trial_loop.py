"""Train one trial: one problem, method, settings and seed. Needs torch alone, so that it can be profiled alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from balancers import Balancer
from hpo.core.text import one_line, with_traceback
from hpo.core.trial import EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem, to_device
from hpo.training.checkpoints import Checkpoints
from hpo.training.global_state import as_found
from hpo.training.parts import Parts, add_gap, evaluate, of_length
from hpo.training.recorder import Diverged, StepBuffer, TrialRecorder


def run_trial(
    config: TrialConfig,
    problem: Problem,
    report: Callable[[EpochReport], None],
    device: torch.device,
    checkpoints: Checkpoints | None = None,
    resumed: Callable[[int], object] = abs,
    until: int | None = None,
) -> TrialResult:
    """Train a trial to its end; what goes wrong in the user's code or numbers comes back as a status.

    The process's global state is as it was before, whatever the user's code has done to it. What ``report`` and
    ``resumed`` raise, and a Ctrl-C in the main thread, are raised here too.

    Args:
        config: what to train.
        problem: the instance that ``config.problem`` and ``config.arguments`` name.
        report: called after each epoch, and again for each epoch before the checkpoint that a trial goes on from.
        device: where to train.
        checkpoints: where to look for a checkpoint and to write more; ``None`` begins at the first step.
        resumed: told the steps of the checkpoint that it goes on from.
        until: leave a checkpoint after so many epochs and come back ``paused``; ``None`` trains to the end.
    """
    boundary = Boundary()
    with as_found() as state:
        trial = TrialLoop(config, problem, device, checkpoints, boundary)
        try:
            trial.run(report, resumed, min(until or config.epochs, config.epochs))
        except Diverged as error:
            trial.log.result.status, trial.log.result.error = TrialStatus.DIVERGED, str(error)
        except BaseException as error:  # the study goes on and names the trial
            boundary.pass_on(error)
            trial.log.result.status, trial.log.result.error = TrialStatus.FAILED, with_traceback(error)
        boundary.end_fork()
    result = trial.close()
    result.alarms += state.alarms
    return result


class TrialLoop:
    """One run of the training loop."""

    def __init__(
        self,
        config: TrialConfig,
        problem: Problem,
        device: torch.device,
        checkpoints: Checkpoints | None,
        boundary: Boundary,
    ) -> None:
        self.config, self.device, self.checkpoints, self.boundary = config, device, checkpoints, boundary
        self.problem = problem
        self.tasks = [task.name for task in problem.tasks]
        self._begin()

    def _begin(self) -> None:
        """Nothing has been trained."""
        self.log, self.rows = TrialRecorder(self.config, self.tasks), StepBuffer()
        self.balancer: Balancer | None = None
        self.clock = 0.0

    def run(self, report: Callable[[EpochReport], None], resumed: Callable[[int], object], until: int) -> None:
        """Train until so many epochs are over, from the last checkpoint if there is one."""
        self.problem = of_length(self.problem, self.config.epochs)
        self._build()
        batches = self._resume()
        if batches is not None:
            self.boundary.tell(resumed, self.log.result.steps)
        for past in self.log.reports:
            self.boundary.tell(report, past)
        while len(self.log.reports) < until:
            self.boundary.tell(report, self._epoch(batches or self.parts.order.epoch()))
            batches = None
        if until < self.config.epochs:
            self._pause(batches)
        elif self.config.test:
            self.log.result.test = self.log.measured("test", self._evaluate("test"))
            add_gap(self.log, lambda: self._evaluate("train"))

    def _build(self) -> None:
        self.parts = Parts.build(self.problem, self.config.seed, self.device)
        self.boundary.end_fork()
        self.balancer = self.parts.balancer(self.config, self.tasks)

    def _evaluate(self, split: Any) -> dict[str, float]:
        metrics = evaluate(self.problem, self.parts.model, split)
        self.boundary.end_fork()
        return metrics

    def _epoch(self, batches: Iterator[Any]) -> EpochReport:
        assert self.balancer is not None
        self.parts.model.train()
        self.clock = time.perf_counter()
        for batch in batches:
            self._step(batch, self.balancer)
            self.boundary.end_fork()
            if self.checkpoints is not None and self.checkpoints.due:
                self._save(self.checkpoints, self.balancer)
        self.balancer.end_epoch()
        block = self.rows.take()  # waits for the device
        self._stop_clock()
        means = self.log.end_steps(block)
        return self.log.end_epoch(means, self._evaluate("val"))

    def _pause(self, batches: Iterator[Any] | None) -> None:
        """Leave the trial at the beginning of its next epoch, or where its checkpoint was."""
        self.log.result.status = TrialStatus.PAUSED
        if self.checkpoints is not None and batches is None:
            self.parts.order.epoch()
            assert self.balancer is not None
            self.clock = time.perf_counter()
            self._save(self.checkpoints, self.balancer)

    def _stop_clock(self) -> None:
        """Count the seconds since the clock was read last as training."""
        now = time.perf_counter()
        self.log.result.seconds += now - self.clock
        self.clock = now

    def _step(self, batch: Any, balancer: Balancer) -> None:
        self.boundary.end_fork()  # of the loader
        self.parts.optimizer.zero_grad(set_to_none=True)
        losses = self.problem.losses(self.parts.model, to_device(batch, self.device))
        self.boundary.end_fork()  # before torch's threads are asked for something, which a child has not
        if self.log.result.steps == 0:
            found = {task: losses.get(task) for task in self.tasks}
            scalars = {task: loss for task, loss in found.items() if isinstance(loss, Tensor) and loss.numel() == 1}
            self.log.begin({task: float(loss.detach()) for task, loss in scalars.items()})
        balancer.backward(losses)
        self.parts.optimizer.step()
        assert balancer.last is not None
        self.rows.add(balancer.last)
        self.log.result.steps += 1

    def _save(self, checkpoints: Checkpoints, balancer: Balancer) -> None:
        """Write a checkpoint between two steps; the seconds it takes are not training."""
        rows = self.rows.read()  # waits for the device
        self._stop_clock()
        state = {
            "model": self.parts.model.state_dict(),
            "optimizer": self.parts.optimizer.state_dict(),
            "balancer": self.log.quietly(balancer.state_dict),
            "order": self.parts.order.state(),
            **self.log.state(rows),
        }
        checkpoints.save(self.log.result.steps, state)
        self.clock = time.perf_counter()

    def _resume(self) -> Iterator[Any] | None:
        """Go on from the newest checkpoint: the rest of its epoch; ``None`` begins at the first step."""
        state = self.checkpoints.latest() if self.checkpoints is not None else None
        if state is None:
            return None
        try:
            return self._load(state)
        except BaseException as error:  # the user's model or loader may have changed since
            self.boundary.pass_on(error)
            self._begin()
            text = f"began at the first step, since its checkpoint does not fit: {one_line(error)}"
            self.log.result.alarms.append(text)
            self._build()
            return None

    def _load(self, state: Mapping[str, Any]) -> Iterator[Any]:
        assert self.balancer is not None
        self.parts.model.load_state_dict(state["model"])
        self.parts.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        self.rows.load(self.log.load(state))
        return self.parts.order.resume(state["order"], len(self.log.reports))

    def close(self) -> TrialResult:
        """Read what the balancer has to say and hand over the result."""
        result = self.log.close(self.balancer)
        result.alarms += self.checkpoints.warnings if self.checkpoints is not None else []
        return result
