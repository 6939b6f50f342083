"""A balancer in the Trainer of Hugging Face: ``pip install 'gradsweep[transformers]'``."""

from __future__ import annotations

import base64
import io
from typing import Any, Self

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from balancers.base import Balancer
from balancers.frameworks.loop_steps import LoopSteps
from balancers.weights import fail

KEY = "gradsweep_balancer"


class _StateInJson:
    """A balancer among the entries of `TrainerState`, which copies them when it writes ``trainer_state.json``.

    What it copies of this one is the balancer's state at that moment, so that every checkpoint has it, whatever asked
    for the checkpoint.
    """

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer

    def __deepcopy__(self, memo: dict[int, Any]) -> str:
        file = io.BytesIO()
        torch.save(self._balancer.state_dict(), file)
        return base64.b64encode(file.getvalue()).decode()


class BalancerCallback(TrainerCallback):
    """Keep a balancer in step with the Hugging Face ``Trainer``, and its state in the checkpoints.

    - The state is saved in ``trainer_state.json`` of every checkpoint and loaded by
      ``trainer.train(resume_from_checkpoint=...)``, in a new process too: training then continues bit for bit.
    - ``accumulate`` of `GradNorm` follows ``gradient_accumulation_steps``; one warning says if the balancer was built
      with another number.
    - `end_epoch` is called after the last step of an epoch, before a checkpoint is written.
    - w(t) is logged as ``w/<task>`` with the training loss.

    Call `add_to` once the Trainer is made. Callbacks given as ``Trainer(callbacks=[...])`` work too, but come after
    those that report (TensorBoard, W&B), which then do not see w.

    Args:
        balancer: the one that ``compute_loss`` calls.

    Raises:
        ValueError: training resumes from a checkpoint without the state of a balancer, or with that of another recipe
            or of other tasks.
    """

    def __init__(self, balancer: Balancer) -> None:
        self.balancer = balancer
        self._steps = LoopSteps(balancer, "gradient_accumulation_steps of TrainingArguments")
        self._ended: int | None = None  # the step after which an epoch was last ended

    def add_to(self, trainer: Trainer) -> Self:
        """Join a Trainer before its other callbacks, so that those that report see w among the logs."""
        trainer.callback_handler.callbacks.insert(0, self)
        return self

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take over the accumulation, load the balancer's state if training resumes, and have it saved from here."""
        self._steps.follow(args.gradient_accumulation_steps)
        if state.global_step:
            self._load(state)
        state.stateful_callbacks[KEY] = _StateInJson(self.balancer)
        self._steps.start()

    def _load(self, state: TrainerState) -> None:
        text = state.stateful_callbacks.get(KEY)
        if text is None:
            rule = f"one that was saved with a {type(self).__name__}: it has no state of a balancer to resume from"
            fail("resume_from_checkpoint", rule, f"one of step {state.global_step} without")
        file = io.BytesIO(base64.b64decode(text))
        self.balancer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the epoch if this was its last step, before it may be saved, and compare steps."""
        if state.epoch is not None and float(state.epoch).is_integer():
            self._end_epoch(state)
        self._steps.optimizer_stepped()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the epoch, once."""
        self._end_epoch(state)

    def _end_epoch(self, state: TrainerState) -> None:
        if self._ended != state.global_step:
            self._ended = state.global_step
            self.balancer.end_epoch()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add w to the logs of training."""
        if logs is not None and "loss" in logs:
            weights = {f"w/{task}": weight for task, weight in self.balancer.as_dict().items()}
            logs.update(weights)
            state.log_history[-1].update(weights)
