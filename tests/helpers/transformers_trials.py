"""The small problem in a Trainer of Hugging Face, and a training function."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import TensorDataset
from transformers import Trainer, TrainingArguments

from balancers.frameworks.transformers import BalancerCallback
from gradsweep import Trial, training
from gradsweep.transformers import TrialCallback
from tests.helpers.small_problem import TASKS, Batches, Net
from tests.helpers.training_functions import EPOCHS, Loaded, collated


class BalancedTrainer(Trainer):
    """A Trainer with the callback of production."""

    def __init__(self, *given: Any, balancer: Any, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.balancer = balancer
        self.model_accepts_loss_kwargs = False
        BalancerCallback(balancer).add_to(self)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = Loaded().losses(model, (inputs["x"], inputs["y"]))
        loss = self.balancer(losses) if model.training else sum(losses.values())
        return (loss, model(inputs["x"])) if return_outputs else loss


def collate(rows: Any) -> Any:
    x, y = collated(rows)
    return {"x": x, "y": y}


def metrics(found: Any) -> dict[str, float]:
    pairs = zip(TASKS, found.predictions, strict=True)
    return {task: float(((value - found.label_ids[task]) ** 2).mean()) for task, value in pairs}


def rows(split: int) -> TensorDataset:
    whole = Batches(split, 0)
    return TensorDataset(whole.x, *whole.y.T)


def names(split: str) -> dict[str, str]:
    return {task: f"{split}_{task}" for task in TASKS}


def fit(
    trial: Trial,
    validation: Any = None,
    kind: type[BalancedTrainer] = BalancedTrainer,
    checkpoint: Any = None,
    **settings: Any,
) -> None:
    model = Net()
    given = {"output_dir": trial.folder, "num_train_epochs": trial.total_epochs, "seed": trial.seed, "use_cpu": True}
    given |= {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 0.02}
    given |= {"lr_scheduler_type": "reduce_lr_on_plateau", "label_names": ["y"], "remove_unused_columns": False}
    given |= {"metric_for_best_model": "far", "greater_is_better": True, "report_to": [], "disable_tqdm": True}
    given |= {"lr_scheduler_kwargs": {"factor": 0.5, "patience": 0}, "eval_strategy": "epoch"}
    given |= {"logging_strategy": "no"}
    arguments = TrainingArguments(**given | settings)
    sets = {"train_dataset": rows(1), "eval_dataset": rows(2), "data_collator": collate, "compute_metrics": metrics}
    trainer = kind(model, arguments, balancer=trial.balancer(shared=model.trunk), **sets)
    callback = TrialCallback(trial, validation or names("eval"), names("test"), rows(3)).add_to(trainer)
    trainer.train(resume_from_checkpoint=checkpoint or callback.checkpoint)


@training(Loaded.tasks, epochs=EPOCHS)
def scheduled(trial: Trial) -> None:
    """Train with accumulation, dropout and a schedule that follows a metric."""
    fit(trial)


class Infinite(BalancedTrainer):
    """Has losses that are not finite."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = Loaded().losses(model, (inputs["x"], inputs["y"]))
        self.balancer.backward({task: loss / 0 for task, loss in losses.items()})
        return torch.zeros((), requires_grad=True)
