"""The handle by which a training function is a trial: weights, epochs, reports, files. Depends only on torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from balancers import Balancer
from balancers.shared_layer import SharedOrAuto
from balancers.weights import fail
from hpo.core.text import quoted

if TYPE_CHECKING:
    from hpo.training.function_run import FunctionRun

Measure = Callable[[], Mapping[str, Any]]


class TrialOver(BaseException):
    """Ends a training function: its trial pauses, has diverged or is left out.

    Not an `Exception`, so that a function that handles those lets it through.
    """


class StartAgain(BaseException):
    """Ends a training function whose checkpoint does not fit, so that it is called again without it."""


def run_of(trial: Trial) -> FunctionRun:
    """Return the run of a trial, for callbacks of frameworks.

    Raises:
        ValueError: it is no trial.
    """
    if not isinstance(trial, Trial):
        fail("trial", "the trial that the training function gets", quoted(trial))
    return trial._run


class Trial:
    """One training run of a function, which gets it as its first argument.

    torch, numpy and Python are seeded with `seed` before the function is called. Where several processes train the
    trial, the function is called in each, and each makes the same calls here; those of rank 0 count.
    """

    def __init__(self, run: FunctionRun) -> None:
        self._run = run

    @property
    def seed(self) -> int:
        """The seed of the trial: the same seed has to give the same initial network and the same batches."""
        return self._run.config.seed

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        return self._run.device

    @property
    def rank(self) -> int:
        """The number of this process among those that train the trial, from 0: ``resources.workers`` of the study."""
        return self._run.ranks.rank

    @property
    def world_size(self) -> int:
        """The number of processes that train the trial."""
        return self._run.ranks.size

    @property
    def total_epochs(self) -> int:
        """The epochs of the trial, for instance for a learning-rate schedule."""
        return self._run.config.epochs

    @property
    def epochs_done(self) -> int:
        """The epochs that have been reported, those before an interruption included."""
        return self._run.done

    @property
    def folder(self) -> Path:
        """A folder for the function's own checkpoints, which a trial that is interrupted finds again.

        It is removed when the trial has ended. If checkpoints go to an object store, it is a copy on the node, which
        is uploaded after epochs, at most as often as checkpoints are written; of several processes that of rank 0.
        """
        return self._run.folder()

    def balancer(
        self, shared: SharedOrAuto = "auto", steps_per_epoch: int | None = None, accumulate: int = 1
    ) -> Balancer:
        """Build the balancer of the method that this trial tries. It records weights, losses and gradient norms.

        Train with ``balancer.backward(losses)``, or with ``balancer(losses).backward()``, with the losses of **all**
        tasks: some trials train a single one of them.

        Args:
            shared: W of the GradNorm paper, the last layer whose weights all tasks share: a module, a parameter or a
                list of these. Default: found from the losses of the first step.
            steps_per_epoch: optimizer steps of an epoch; only GradNorm's recipe ``annealed`` needs it.
            accumulate: backward passes that make one optimizer step. ``balancer.backward(losses)`` then fills in the
                mean over them; ``balancer(losses)`` is yours to divide.

        Raises:
            ValueError: a second call; no ``steps_per_epoch`` where it is needed; ``accumulate`` below 1.
        """
        return self._run.build_balancer(shared, steps_per_epoch, accumulate)

    @property
    def weights(self) -> dict[str, float]:
        """A number for each task, to train with in place of a balancer; they sum to the number of tasks.

        Trials of methods whose weights depend on losses or gradients end here: a study leaves them out.
        """
        return self._run.fixed_weights()

    def epochs(self, **parts: Any) -> Iterator[int]:
        """Iterate over the epochs that are left, ``range(total_epochs)`` if the trial was never interrupted.

        After each epoch a checkpoint is written, if enough seconds have passed since the last one. It holds the
        states of the parts, of the balancer and of the random generators. An interrupted trial continues after it.

        Args:
            **parts: everything that training changes, under names of your choice: model, optimizer, schedule, scaler.
                Objects with ``state_dict`` and ``load_state_dict``, a `torch.Generator`, or a DataLoader, of which
                the generators are saved; ``None`` is left out.

        Raises:
            ValueError: a second call; a part without a state; an epoch without a `report`.
        """
        return self._run.epochs(parts)

    def report(self, validation: Mapping[str, Any], test: Measure, train: Measure | None = None) -> None:
        """Report the metrics of an epoch, once in each epoch.

        Args:
            validation: for each task its metric on the validation split.
            test: returns the same on the test split. It is called only where the study reads that split, and training
                goes on as if it had not been called.
            train: returns the same on the training split, for the report's gap of train and test; optional.

        Raises:
            ValueError: an unknown or a missing task, no number, more reports than epochs, an epoch without a step.
        """
        self._run.report(validation, test, train)

    def state_dict(self) -> dict[str, Any]:
        """Return the trial's own state, for a loop that writes checkpoints itself, in `folder`, without `epochs`."""
        return self._run.state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`, after the balancer is built; `epochs_done` says how far it was."""
        self._run.load_own(state)
