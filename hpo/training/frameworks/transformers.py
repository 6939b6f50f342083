"""A trial in the Trainer of Hugging Face: ``pip install 'gradsweep[transformers]'``."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from balancers.frameworks.transformers import BalancerCallback
from balancers.weights import fail
from hpo.core.files import write_whole
from hpo.training.frameworks.named_metrics import NamedMetrics
from hpo.training.function_trial import Trial, run_of
from hpo.training.saved_parts import SavedParts

FILE = "gradsweep_trial.pt"  # in a checkpoint; it is written last, so that a checkpoint with it is complete


class TrialCallback(BalancerCallback):
    """Report the epochs of a Hugging Face ``Trainer`` to a trial, and resume the trial from the Trainer's checkpoint.

    - After each epoch the Trainer evaluates, and the metrics of ``compute_metrics`` are reported.
    - A checkpoint in `Trial.folder` holds the state of the trial. It is written after an epoch, at most every
      ``checkpoint_seconds`` of the study, and always before the trial pauses; older ones are removed. From it
      ``trainer.train(resume_from_checkpoint=callback.checkpoint)`` continues bit for bit.
    - It does what a `balancers.frameworks.transformers.BalancerCallback` does, and takes the place of one that the
      Trainer has.

    The settings of evaluation and of checkpoints in ``TrainingArguments`` need no change. Call `add_to` once the
    Trainer is made.

    Args:
        trial: after `Trial.balancer` was called.
        validation: for each task the name of its metric on the validation split, such as ``eval_depth``.
        test: the same for the test split, such as ``test_depth``. ``Trainer.predict`` reads it where the study does.
        test_dataset: as for ``Trainer.predict``.

    Raises:
        ValueError: names for other tasks, a name that ``compute_metrics`` does not return, arguments of another
            folder, seed, device or number of epochs than the trial's.
    """

    def __init__(
        self, trial: Trial, validation: Mapping[str, str], test: Mapping[str, str], test_dataset: Any
    ) -> None:
        self._run = run_of(trial)
        super().__init__(self._run.balancer_in_use())
        self._validation = NamedMetrics("TrialCallback(validation=...)", validation, self.balancer.tasks)
        self._test = NamedMetrics("TrialCallback(test=...)", test, self.balancer.tasks)
        self._test_dataset, self._folder = test_dataset, trial.folder
        self._trainer: Trainer | None = None
        self._epoch_ended = self._is_recorded = False
        self._since = 0.0

    def add_to(self, trainer: Trainer) -> Self:
        """Join a Trainer in place of a `BalancerCallback` and before its other callbacks."""
        _check(trainer.args, self._folder, self._run.config.epochs, self._run.config.seed, self._run.device)
        others = [one for one in trainer.callback_handler.callbacks if not isinstance(one, BalancerCallback)]
        trainer.callback_handler.callbacks[:] = others
        self._trainer = trainer
        return super().add_to(trainer)

    @property
    def checkpoint(self) -> str | None:
        """For ``trainer.train(resume_from_checkpoint=...)``: the last complete one, ``None`` in a new trial."""
        complete = [file.parent for file in self._folder.glob(f"checkpoint-*/{FILE}")]
        return str(max(complete, key=_steps)) if complete else None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Continue the trial where training resumes."""
        if self._trainer is None:
            fail("TrialCallback", "callback.add_to(trainer) before trainer.train()", "none")
        super().on_train_begin(args, state, control, **kwargs)
        if state.global_step == 0:
            self._run.settle()
            return
        checkpoint = self.checkpoint
        if checkpoint is None or _steps(Path(checkpoint)) != state.global_step:
            fail("resume_from_checkpoint", "callback.checkpoint", f"a checkpoint of step {state.global_step}")
        saved = torch.load(Path(checkpoint) / FILE, map_location="cpu", weights_only=True)
        _parts(kwargs).load(saved["loader"])
        self._run.load_own(saved["trial"])

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Have the Trainer evaluate."""
        super().on_epoch_end(args, state, control, **kwargs)
        self._epoch_ended = control.should_evaluate = True

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Report the epoch, and have the Trainer write a checkpoint if it is time."""
        if not self._epoch_ended:
            return  # in the middle of an epoch, or by the user
        self._epoch_ended = False
        self._run.record(self._validation.read(metrics or {}), self._read_test)
        self._is_recorded, self._since = True, time.monotonic()
        control.should_save = control.should_save or self._run.files_are_due
        if not control.should_save:
            self._settle()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Complete the checkpoint of an epoch, remove older ones, and pause where the study says so."""
        if not self._is_recorded:
            return  # in the middle of an epoch
        content = io.BytesIO()
        torch.save({"trial": self._run.state(), "loader": _parts(kwargs).state()}, content)
        write_whole(self._folder / f"checkpoint-{state.global_step}" / FILE, content.getvalue())
        for other in self._folder.glob("checkpoint-*"):
            if _steps(other) != state.global_step:
                shutil.rmtree(other, ignore_errors=True)
        self._run.keep_files(self._since)
        self._settle()

    def _settle(self) -> None:
        self._is_recorded = False
        self._run.settle()

    def _read_test(self) -> dict[str, Any]:
        assert self._trainer is not None
        return self._test.read(self._trainer.predict(self._test_dataset, metric_key_prefix="test").metrics)


def _steps(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _parts(arguments: Mapping[str, Any]) -> SavedParts:
    """The loader among the arguments of a callback, whose generators are saved."""
    loader = arguments.get("train_dataloader")
    return SavedParts({"train_dataloader": loader if isinstance(loader, DataLoader) else None})


def _check(args: TrainingArguments, folder: Path, epochs: int, seed: int, device: torch.device) -> None:
    """Check the arguments that a trial depends on.

    Raises:
        ValueError: one is another than the trial's.
    """
    if Path(args.output_dir).resolve() != folder.resolve():
        fail("output_dir", "trial.folder", repr(args.output_dir))
    if args.num_train_epochs != epochs:
        fail("num_train_epochs", f"{epochs}, as trial.total_epochs", args.num_train_epochs)
    if args.seed != seed:
        fail("seed", f"{seed}, as trial.seed", args.seed)
    if args.device.type != device.type:
        fail("use_cpu", f"{device.type == 'cpu'}, since the trial trains on {device.type}", args.use_cpu)
    if args.world_size != 1:
        fail("TrainingArguments", "one process, since the trial is one", f"{args.world_size}")
    if args.save_strategy == "best":
        fail("save_strategy", "'no', 'steps' or 'epoch', since a trial continues from its last epoch", "'best'")
