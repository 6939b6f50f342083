"""A balancer in Lightning: ``pip install 'gradsweep[lightning]'``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from balancers.base import Balancer
from balancers.frameworks.loop_steps import LoopSteps
from balancers.weights import fail


class BalancerCallback(Callback):
    """Keep a balancer in step with a Lightning ``Trainer``, and its state in the checkpoints.

    - The state is saved with every checkpoint and loaded by ``trainer.fit(..., ckpt_path=...)``, in a new process
      too: training then continues bit for bit. ``validate``, ``test`` and ``predict`` leave the balancer as it is.
    - With automatic optimization ``accumulate`` of `GradNorm` follows ``accumulate_grad_batches``; one warning says
      if the balancer was built with another number. With manual optimization ``accumulate`` is yours; one warning
      says if the balancer's steps are not those of the optimizer.
    - `end_epoch` is called after the last batch of an epoch, before a checkpoint is written.
    - w(t) is logged as ``w/<task>``, every ``log_every_n_steps``.

    Give it to the Trainer, ``Trainer(callbacks=[BalancerCallback(module.balancer)])``, or return it from the module's
    ``configure_callbacks``.

    Args:
        balancer: the one that ``training_step`` calls.

    Raises:
        ValueError: training resumes from a checkpoint without the state of a balancer, or with that of another recipe
            or of other tasks.
    """

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self._steps = LoopSteps(balancer, "accumulate_grad_batches of the Lightning Trainer")
        self._optimizer_steps = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take over the accumulation, which a state that is loaded next depends on."""
        if stage == "fit" and pl_module.automatic_optimization:
            self._steps.accumulate(trainer.accumulate_grad_batches)

    def state_dict(self) -> dict[str, Any]:
        """Return the balancer's state, which Lightning saves."""
        return self.balancer.state_dict()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
        """Load the balancer's state where training resumes."""
        if trainer.state.fn != "fit":
            return
        states = checkpoint["callbacks"]
        if self.state_key not in states:
            rule = f"one that was saved with a {self.state_key}: it has no state of a balancer to resume from"
            fail("ckpt_path", rule, f"with callbacks {sorted(states)}")
        self.balancer.load_state_dict(states[self.state_key])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count steps from here."""
        self._optimizer_steps = trainer.global_step
        self._steps.start()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Follow an accumulation that changes from epoch to epoch."""
        if pl_module.automatic_optimization:
            self._steps.follow(trainer.accumulate_grad_batches)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the epoch after its last batch; compare steps where the optimizer stepped, and log w."""
        last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        if last:
            self.balancer.end_epoch()
        stepped = trainer.global_step != self._optimizer_steps
        self._optimizer_steps = trainer.global_step
        if stepped and len(trainer.optimizers) == 1:  # of several, it is not known which one the balancer is for
            self._steps.optimizer_stepped()
        elif last:  # a loop of the user's may end an epoch in the middle of a step
            self._steps.start()
        if pl_module.automatic_optimization:
            self._log(trainer, pl_module, trainer.global_step if stepped else None)
        else:  # Lightning then counts batches
            self._log(trainer, pl_module, trainer.fit_loop.epoch_loop.total_batch_idx + 1)

    def _log(self, trainer: Trainer, pl_module: LightningModule, step: int | None) -> None:
        """Log w in the steps in which Lightning logs; reading it waits for the device."""
        every = trainer.log_every_n_steps
        if step is not None and trainer.loggers and every and step % every == 0:
            weights = self.balancer.as_dict()
            pl_module.log_dict({f"w/{task}": weight for task, weight in weights.items()}, batch_size=1)
