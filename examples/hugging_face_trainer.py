"""GradNorm in the Trainer of Hugging Face: python -m examples.hugging_face_trainer

What is overridden is `compute_loss`; the Trainer owns backward(), accumulation, precision and clipping.
"""

import tempfile

from torch import nn
from transformers import Trainer, TrainingArguments, set_seed

from balancers import GradNorm
from balancers.frameworks.transformers import BalancerCallback
from examples.own_problem import Digits  # your network and your data

PARTS = 2  # batches in a step


class Network(nn.Module):
    """The Trainer wants one module that takes a batch's columns by name."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem
        self.parts = problem.build_model(seed=0)

    def forward(self, images, digits):
        return self.problem.losses(self.parts, (images, digits))


class BalancedTrainer(Trainer):
    """A Trainer whose loss a balancer weighs."""

    def __init__(self, *args, balancer, **settings):
        super().__init__(*args, **settings)
        self.balancer = balancer
        BalancerCallback(balancer).add_to(self)  # checkpoints, accumulation, ends of epochs, logs of w
        self.model_accepts_loss_kwargs = False  # then the Trainer divides by the accumulation

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        losses = model(**inputs)
        loss = self.balancer(losses) if model.training else sum(losses.values())
        return (loss, losses) if return_outputs else loss


def train(folder, parts=PARTS, batch=50, recipe=GradNorm.robust, checkpoint=None, **settings):
    """Train, from a checkpoint if one is given; takes the Trainer's own settings (`bf16`, `save_steps`, ...)."""
    set_seed(0)
    problem = Digits()
    network = Network(problem)
    balancer = recipe(["digit", "ink"], problem.shared_layer(network.parts), alpha=0.5)
    batches = problem.loader("train", seed=0)
    rows = [{"images": x, "digits": y} for images, digits in batches for x, y in zip(images, digits, strict=True)]
    given = {"num_train_epochs": 30, "per_device_train_batch_size": batch, "learning_rate": 1e-3, "report_to": []}
    given |= {"gradient_accumulation_steps": parts, "save_strategy": "no", "use_cpu": True}
    arguments = TrainingArguments(folder, **given | settings)
    trainer = BalancedTrainer(network, arguments, train_dataset=rows, balancer=balancer)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trainer = train(folder, disable_tqdm=True, logging_strategy="no")
    network, balancer = trainer.model, trainer.balancer
    metrics = {task: round(value, 3) for task, value in network.problem.evaluate(network.parts, "test").items()}
    print(metrics, dict(zip(balancer.tasks, balancer.weights.tolist(), strict=True)), balancer.path.name)
