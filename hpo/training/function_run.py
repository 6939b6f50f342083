"""One call of a training function as a trial: its records, its checkpoints, its end. Depends only on torch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from balancers import Balancer, StepRecord
from balancers.gradnorm_settings import check_accumulate
from balancers.shared_layer import SharedOrAuto
from balancers.weights import fail
from hpo.core.text import one_line
from hpo.core.trial import EpochMetrics, TrialResult, TrialStatus
from hpo.core.user_calls import Boundary
from hpo.problems.training_function import FunctionProblem
from hpo.training.callbacks import TrialCallbacks
from hpo.training.function_state import FunctionState
from hpo.training.function_trial import Measure, StartAgain, Trial, TrialOver
from hpo.training.joined_passes import JoinedPasses
from hpo.training.kept_folder import KeptFolder
from hpo.training.members import Member
from hpo.training.methods import OVER_THE_RUN, build_balancer
from hpo.training.parts import add_gap
from hpo.training.ranks import ALONE, Ranks
from hpo.training.recorder import Diverged, StepBuffer
from hpo.training.reported_metrics import check_measures, metrics_of, returned_early
from hpo.training.resumable_loader import read_state, set_state
from hpo.training.saved_parts import SavedParts

FIXED = ("static", "equal", "single_task")  # methods whose weights are numbers before the first step


class FunctionRun:
    """One call of a training function.

    Args:
        member: the trial; its ``state`` is the checkpoint to continue from.
        problem: the function with its arguments.
        device: where to train.
        callbacks: called for the trial.
        boundary: to the user's code.
        ranks: the processes that train the trial.

    Attributes:
        balancer: of the trial's method, once the function has asked for it or for its weights.
    """

    def __init__(
        self,
        member: Member,
        problem: FunctionProblem,
        device: torch.device,
        callbacks: TrialCallbacks,
        boundary: Boundary,
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.device, self.ranks = member.config, device, ranks
        self.balancer: Balancer | None = None
        self._member, self._problem, self._callbacks, self._boundary = member, problem, callbacks, boundary
        self._until = min(member.until, self.config.epochs)
        self._tasks = [task.name for task in problem.tasks]
        member.begin(problem.tasks, 1)
        self._log, self._rows, self._passes = member.log, StepBuffer(), JoinedPasses()
        self._state = FunctionState(self._log, self._rows, ranks, device)
        self._epoch = 0  # of `epochs`
        self._state_of_balancer: Mapping[str, Any] | None = None
        self._records_steps = self._is_over = False
        self._folder: KeptFolder | None = None
        self._clock, self._last_step = time.perf_counter(), 0.0

    @property
    def done(self) -> int:
        """The number of epochs that have been reported."""
        return len(self._log.reports)

    # --- what the function asks for

    def call(self) -> None:
        """Call the function; it has to report every epoch."""
        try:
            self._problem.training.function(Trial(self), **self._problem.arguments)
        except BaseException as error:  # with which a function may also answer the end of its trial
            self._boundary.pass_on(error)
            if not self._is_over:
                raise
        finally:
            self._boundary.end_fork()
            if self._folder is not None:
                self._folder.close()
                self._log.result.alarms += self._folder.warnings
        if not self._is_over and self.done < self._until:
            raise ValueError(returned_early(self.done, self.config.epochs))
        if not self._is_over and self._until < self.config.epochs:
            self._log.result.status = TrialStatus.PAUSED

    def folder(self) -> Path:
        """See `Trial.folder`."""
        if self._folder is None:
            kept = self._member.checkpoints
            self._folder = KeptFolder(None) if kept is None else kept.folder(uploads=self.ranks.is_first)
        return self._folder.path

    def build_balancer(self, shared: SharedOrAuto, steps_per_epoch: int | None, accumulate: int) -> Balancer:
        """See `Trial.balancer`."""
        if self._records_steps:
            fail("trial.balancer()", "one call", "a second")
        check_accumulate(accumulate)
        self.balancer = self._built(shared, steps_per_epoch)
        self.balancer.accumulate = accumulate
        self.balancer.on_step = self._on_step
        self._records_steps = True
        if self._state_of_balancer is not None:
            self.balancer.load_state_dict(self._state_of_balancer)
            self._state_of_balancer = None
        self._start_clock()
        return self.balancer

    def _built(self, shared: SharedOrAuto, steps_per_epoch: int | None) -> Balancer:
        method, settings = self.config.method, self.config.settings
        if settings.get("recipe") in OVER_THE_RUN and steps_per_epoch is None:
            rule = f"the optimizer steps of an epoch, which recipe {settings['recipe']!r} has to know"
            fail("trial.balancer(steps_per_epoch=...)", rule, "none")
        return build_balancer(method, settings, self._tasks, shared, (steps_per_epoch or 0) * self.config.epochs)

    def fixed_weights(self) -> dict[str, float]:
        """See `Trial.weights`."""
        if self.config.method not in FIXED:
            self._log.result.error = "its weights depend on losses or gradients, and the function takes fixed weights"
            self._end(TrialStatus.REFUSED)
        if self.balancer is None:
            self.balancer = self._built("auto", None)
        return self.balancer.as_dict()

    def balancer_in_use(self) -> Balancer:
        """Return the balancer that the function has asked for.

        Raises:
            ValueError: it has asked for none.
        """
        if self.balancer is None:
            fail("training function", "losses weighted by trial.balancer() or trial.weights", "neither of them used")
        return self.balancer

    def epochs(self, parts: Mapping[str, Any]) -> Iterator[int]:
        """See `Trial.epochs`."""
        if self._state.parts is not None:
            fail("trial.epochs()", "one call", "a second")
        self._state.parts = SavedParts(parts)
        self._resume()
        return self._epochs()

    def _epochs(self) -> Iterator[int]:
        while self.done < self._until:
            self._epoch = self.done
            self._start_clock()
            yield self._epoch
            self._boundary.end_fork()
            if self.done == self._epoch:
                found = f"none in epoch {self._epoch + 1} of {self.config.epochs}"
                fail("trial.report()", "a call in each epoch", found)
            self._state.compare()
            self._save()
            if self._stops:
                self._end(TrialStatus.PAUSED)

    # --- steps and epochs

    def _on_step(self, record: StepRecord) -> None:
        """Record a step, or a pass of one; called by the balancer."""
        self._boundary.end_fork()
        self._check_over()
        self._add(self._passes.add(record, self.balancer_in_use()))

    def _add(self, record: StepRecord | None) -> None:
        if record is None:
            return
        self._rows.add(record)
        if self._log.result.steps == 0:
            losses = self.ranks.mean("trial.balancer()", record.losses.detach().cpu())
            try:
                self._log.begin(dict(zip(self._tasks, losses.tolist(), strict=True)))
            except Diverged as error:
                self._diverged(error)
        self._log.result.steps += 1
        self._last_step = time.perf_counter()

    def report(self, validation: Mapping[str, Any], test: Measure, train: Measure | None) -> None:
        """See `Trial.report`."""
        self.record(validation, test, train)
        self.keep_files()
        self.settle()

    def record(self, validation: Mapping[str, Any], test: Measure, train: Measure | None = None) -> None:
        """Record and report an epoch; the trial goes on, so that a framework can write its checkpoint of it."""
        self._boundary.end_fork()
        self._check_over()
        self._stop_clock()
        check_measures(test, train)
        if self.done == self.config.epochs:
            fail("trial.report()", f"a call for each of the {self.config.epochs} epochs of the trial", "one more")
        if self._state.parts is not None and self.done > self._epoch:
            fail("trial.report()", "one call in each epoch", f"a second in epoch {self.done}")
        metrics = self._metrics("trial.report()", lambda: validation)
        if self.balancer is not None:
            self.balancer.end_epoch()
        self._add(self._passes.close())
        try:
            report = self._log.end_epoch(self._means(), metrics)
            self._read_test(test, train)
        except Diverged as error:
            self._diverged(error)
        self._boundary.tell(self._callbacks.on_epochs, [(self.config, report)])

    @property
    def files_are_due(self) -> bool:
        """True if a framework should write its checkpoint: the trial will pause, or it is time for the next one."""
        kept = None if self._member.checkpoints is None else self._folder
        return kept is not None and self.done < self.config.epochs and (self._pauses or kept.due)

    def keep_files(self, since: float | None = None) -> None:
        """Keep the files in the folder as they are now, if it is time; see `KeptFolder.save`."""
        if self._folder is not None:
            self._folder.save(now=self._pauses, since=since)

    def settle(self) -> None:
        """Pause where the study says so, else begin the next epoch."""
        if self._pauses:
            self._end(TrialStatus.PAUSED)
        self._start_clock()

    @property
    def _stops(self) -> bool:
        """True where the study lets the trial pause; with `epochs` it does so once its checkpoint is written."""
        return self._until <= self.done < self.config.epochs

    @property
    def _pauses(self) -> bool:
        return self._state.parts is None and self._stops

    def _means(self) -> dict[str, dict[str, float]]:
        """The means of the steps of the epoch; of fixed weights without a balancer, these."""
        balancer = self.balancer_in_use()
        if not self._records_steps:
            self._log.result.steps += 1  # an epoch is all that can be counted
            self._log.result.initial_losses = dict.fromkeys(self._tasks, 0.0)
            return {"w": balancer.as_dict(), "G": {}, "r": {}, "L": {}}
        if not self._rows.read():
            rule = "steps with trial.balancer() in each epoch, as by balancer.backward(losses)"
            fail("training function", rule, f"none in epoch {self.done + 1}")
        block = self._rows.take()[:, :, 0].contiguous()
        block[:, -1] = self.ranks.mean("training function", block[:, -1])
        return self._log.end_steps(block)

    def _metrics(self, where: str, measure: Measure) -> dict[str, float]:
        """The metrics that rank 0 measures; the other ranks take part in it."""
        return self.ranks.first(where, lambda: metrics_of(where, measure(), self._tasks), measure)

    def _read_test(self, test: Measure, train: Measure | None) -> None:
        """Read the test split if the study reads it after this epoch."""
        best, result = self.config.select == "best", self._log.result
        reads = self._log.may_be_best if best else self.done == self.config.epochs
        if not (reads and self.config.test):
            return
        into: TrialResult | EpochMetrics = result.best_epochs[-1] if best else result
        before = read_state(self.device)
        into.test = self._log.measured("test", self._metrics("trial.report(test=...)", test))
        if train is not None:
            add_gap(self._log, into, lambda: self._metrics("trial.report(train=...)", train))
        self._boundary.end_fork()
        set_state(before, self.device)

    def _start_clock(self) -> None:
        self._clock = self._last_step = time.perf_counter()

    def _stop_clock(self) -> None:
        """Count the seconds from the beginning of the epoch to its last step; without a balancer, until now."""
        end = self._last_step if self._records_steps else time.perf_counter()
        self._log.result.seconds += end - self._clock

    # --- checkpoints

    def _save(self) -> None:
        """Write a checkpoint if it is time, or if the trial pauses here; rank 0 decides, and its file counts."""
        kept = self._member.checkpoints
        is_due = self.done < self.config.epochs and kept is not None and (self._stops or kept.due)
        if not self.ranks.first("trial.epochs()", lambda: is_due):
            return
        assert kept is not None
        if self._folder is not None:
            self._folder.save(now=True)
        state = self._state.read_whole(self.balancer)
        if self.ranks.is_first:
            kept.save(self._log.result.steps, state)

    def state(self) -> dict[str, Any]:
        """See `Trial.state_dict`."""
        return self._state.read(self.balancer, "trial.state_dict()")

    def load_own(self, state: Mapping[str, Any]) -> None:
        """See `Trial.load_state_dict`."""
        self._state_of_balancer = self._state.load(state, self.balancer)
        self._tell_past()
        self.settle()  # it may have been killed after it had paused

    def _resume(self) -> None:
        """Continue from the checkpoint, if there is one and it fits on every rank."""
        state, self._member.state = self._member.state, None  # it may be large
        if state is None:
            return
        fault = ""
        try:
            self._state.load_parts(state)
            self._state_of_balancer = self._state.load(state, self.balancer)
        except BaseException as error:  # the function may have changed since
            self._boundary.pass_on(error)
            fault = one_line(error)
        if faults := [fault for fault in self.ranks.all("trial.epochs()", fault) if fault]:
            raise StartAgain(f"began at the first step, since its checkpoint does not fit: {faults[0]}")
        self._tell_past()

    def _tell_past(self) -> None:
        """Report that the trial continues, and the epochs before its checkpoint."""
        self._boundary.tell(self._callbacks.on_resumed, self.config, self._log.result.steps)
        for report in self._log.reports:
            self._boundary.tell(self._callbacks.on_epochs, [(self.config, report)])

    # --- the end

    def _check_over(self) -> None:
        if self._is_over:  # the function has caught it
            raise TrialOver

    def _diverged(self, error: Diverged) -> NoReturn:
        self._log.result.error = str(error)
        self._end(TrialStatus.DIVERGED)

    def _end(self, status: TrialStatus) -> NoReturn:
        """End the function's call.

        Raises:
            TrialOver: always.
        """
        self._log.result.status, self._is_over = status, True
        raise TrialOver
