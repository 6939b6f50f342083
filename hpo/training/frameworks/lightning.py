"""A trial in Lightning: ``pip install 'gradsweep[lightning]'``."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader

from balancers.frameworks.lightning import BalancerCallback
from balancers.weights import fail
from hpo.core.user_calls import is_interrupt
from hpo.training.frameworks.named_metrics import NamedMetrics
from hpo.training.frameworks.second_trainer import metrics_on_test
from hpo.training.function_trial import Trial, run_of
from hpo.training.saved_parts import SavedParts

KEY = "gradsweep_trial"  # in the checkpoint


class TrialCallback(BalancerCallback, Checkpoint):
    """Report the epochs of a Lightning ``Trainer`` to a trial, and resume the trial from Lightning's checkpoint.

    - After each epoch the validation metrics that the module has logged are reported.
    - The state of the trial is in a checkpoint in `Trial.folder`, which is written after an epoch, at most every
      ``checkpoint_seconds`` of the study, and always before the trial pauses. From it
      ``trainer.fit(..., ckpt_path=callback.checkpoint)`` continues bit for bit.
    - It does what a `balancers.frameworks.lightning.BalancerCallback` does, and takes the place of one that the
      module returns from ``configure_callbacks``.

    Args:
        trial: after `Trial.balancer` was called.
        validation: for each task the name under which the module logs its metric on the validation split.
        test: the same for the test split, which a second Trainer reads where the study does.
        test_dataloaders: as for ``Trainer.test``. Default: those of the datamodule or of the module.

    Raises:
        ValueError: names for other tasks, a name under which nothing is logged, a Trainer with other epochs or on
            another device than the trial.
    """

    def __init__(
        self, trial: Trial, validation: Mapping[str, str], test: Mapping[str, str], test_dataloaders: Any = None
    ) -> None:
        self._run = run_of(trial)
        super().__init__(self._run.balancer_in_use())
        self._validation = NamedMetrics("TrialCallback(validation=...)", validation, self.balancer.tasks)
        self._test = NamedMetrics("TrialCallback(test=...)", test, self.balancer.tasks)
        self._test_dataloaders = test_dataloaders
        self._file = trial.folder / "last.ckpt"
        self._saved: Mapping[str, Any] | None = None  # the state to continue from
        self._writes = False
        self._on_interrupt = signal.getsignal(signal.SIGINT)

    @property
    def checkpoint(self) -> str | None:
        """For ``trainer.fit(ckpt_path=...)``: the checkpoint to continue from, ``None`` in a new trial."""
        return str(self._file) if self._file.exists() else None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the settings that the trial depends on, and take the place of a `BalancerCallback`."""
        if stage != "fit":
            return
        epochs, device = self._run.config.epochs, self._run.device.type
        if trainer.max_epochs != epochs:
            fail("max_epochs", f"{epochs}, as trial.total_epochs", trainer.max_epochs)
        if trainer.strategy.root_device.type != device:
            fail("accelerator", f"{device!r}, as trial.device", repr(trainer.strategy.root_device.type))
        if trainer.world_size != 1:
            fail("devices", "one, since the trial is one process", trainer.world_size)
        if trainer.check_val_every_n_epoch != 1:
            fail("check_val_every_n_epoch", "1, since the study reads each epoch", trainer.check_val_every_n_epoch)
        trainer.callbacks = [one for one in trainer.callbacks if one is self or not isinstance(one, BalancerCallback)]
        super().setup(trainer, pl_module, stage)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the state of the trial to the checkpoint that it continues from."""
        if self._writes:
            checkpoint[KEY] = {"trial": self._run.state(), "loader": _parts(trainer).state()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
        """Take the state of the trial where training resumes."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if trainer.state.fn == "fit":
            if KEY not in checkpoint:
                fail("ckpt_path", "callback.checkpoint", "a checkpoint without the state of a trial")
            self._saved = checkpoint[KEY]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the trial, or write the checkpoint of the epoch before this one and pause where the study says so.

        Only here everything is done that Lightning does after an epoch, with other callbacks and with schedules that
        follow a metric.
        """
        if self._saved is not None:
            self._resume(trainer, self._saved)
            return
        if self._run.done and self._run.files_are_due:
            since = time.monotonic()
            self._save(trainer)
            self._run.keep_files(since)
        self._run.settle()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the epoch."""
        logged = dict(trainer.callback_metrics)
        self._run.record(self._validation.read(logged), lambda: self._read_test(trainer, pl_module))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the handler of Ctrl-C after one, since Lightning leaves the next ones without effect."""
        if is_interrupt(exception):
            signal.signal(signal.SIGINT, self._on_interrupt)

    def _read_test(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        return self._test.read(metrics_on_test(trainer, module, self._test_dataloaders))

    def _save(self, trainer: Trainer) -> None:
        """Write the checkpoint, beside the last one until it is complete."""
        part = self._file.with_suffix(".part")
        self._writes = True
        try:
            trainer.save_checkpoint(part, weights_only=False)
        finally:
            self._writes = False
        part.replace(self._file)

    def _resume(self, trainer: Trainer, saved: Mapping[str, Any]) -> None:
        """Continue the trial.

        Lightning would take the epoch in which the checkpoint was written for one that it has to finish, and has
        already asked the loader for batches; so the epoch begins here like any other.
        """
        self._saved = None
        _parts(trainer).load(saved["loader"])
        self._run.load_own(saved["trial"])
        trainer.fit_loop.restarting = False
        trainer.fit_loop.on_iteration_done()


def _parts(trainer: Trainer) -> SavedParts:
    """The loaders whose generators are saved; other loaders save their place by Lightning, if they can."""
    return SavedParts({f"loader_{k}": one for k, one in enumerate(_loaders(trainer.train_dataloader))})


def _loaders(found: Any) -> list[DataLoader[Any]]:
    """Return the DataLoaders in the collections that Lightning takes."""
    if isinstance(found, Mapping | list | tuple):
        inner = found.values() if isinstance(found, Mapping) else found
        return [one for part in inner for one in _loaders(part)]
    return [found] if isinstance(found, DataLoader) else []
