"""A study over a Hugging Face Trainer: from the upper half of a digit tell the digit, its ink and its lower half.

Run: gradsweep run examples/trainer_study.yaml
"""

import torch
from transformers import Trainer, TrainingArguments

from examples.plain_training import Network, data, losses  # your network and your data
from examples.training_function import TASKS
from gradsweep import training


class BalancedTrainer(Trainer):
    """The Trainer of production; a balancer weighs its losses."""

    def __init__(self, *args, balancer, **settings):
        super().__init__(*args, **settings)
        self.balancer = balancer
        self.model_accepts_loss_kwargs = False  # then the Trainer divides by the accumulation

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        values = losses(model, (inputs["images"], inputs["digits"]))
        loss = self.balancer(values) if model.training else sum(values.values())
        if not return_outputs:
            return loss
        return loss, dict(zip(values, model(inputs["images"][:, :32]), strict=True))


def collate(rows):
    images, digits = map(torch.stack, zip(*rows, strict=True))
    return {"images": images, "digits": digits}


def metrics(found):
    (logits, ink, lower_half), (images, digits) = found.predictions, found.label_ids
    errors = {"ink": ink - 100 * images.mean(1) / 16, "lower_half": lower_half - images[:, 32:]}
    accuracy = float((logits.argmax(1) == digits).mean())
    return {"digit": accuracy} | {task: float((error**2).mean() ** 0.5) for task, error in errors.items()}


@training(TASKS, epochs=20)
def train(trial, lr: float = 1e-3):
    from gradsweep.transformers import TrialCallback

    model = Network()
    balancer = trial.balancer(shared=model.trunk[2])  # the last layer that all tasks share
    arguments = TrainingArguments(
        output_dir=trial.folder,
        num_train_epochs=trial.total_epochs,
        seed=trial.seed,
        use_cpu=trial.device.type == "cpu",
        learning_rate=lr,
        per_device_train_batch_size=50,
        per_device_eval_batch_size=300,
        label_names=["images", "digits"],
        remove_unused_columns=False,
        save_strategy="no",  # the callback has a checkpoint written where the study wants one
        report_to=[],
        disable_tqdm=True,
    )
    sets = {"train_dataset": data("train"), "eval_dataset": data("val")}
    settings = {"data_collator": collate, "compute_metrics": metrics, **sets}
    trainer = BalancedTrainer(model, arguments, balancer=balancer, **settings)
    callback = TrialCallback(
        trial,
        validation={task.name: f"eval_{task.name}" for task in TASKS},  # as the Trainer names them
        test={task.name: f"test_{task.name}" for task in TASKS},
        test_dataset=data("test"),
    ).add_to(trainer)
    trainer.train(resume_from_checkpoint=callback.checkpoint)
