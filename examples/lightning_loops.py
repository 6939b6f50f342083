"""GradNorm in Lightning, with manual and with automatic optimisation: python -m examples.lightning_loops

Both accumulate two batches into a step; the callback keeps the balancer in Lightning's checkpoints, in both.
"""

import lightning
from torch.utils.data import DataLoader

from balancers import GradNorm
from balancers.frameworks.lightning import BalancerCallback
from examples.own_problem import Digits  # your network and your data

PARTS = 2  # batches in a step


class Automatic(lightning.LightningModule):
    """Lightning owns backward(), accumulation (`accumulate_grad_batches`), precision and clipping."""

    def __init__(self):
        super().__init__()
        lightning.seed_everything(0, verbose=False)
        self.problem = Digits()
        self.model = self.problem.build_model(seed=0)
        shared = self.problem.shared_layer(self.model)
        self.balancer = GradNorm.robust(["digit", "ink"], shared, alpha=0.5)

    def configure_callbacks(self):
        return [BalancerCallback(self.balancer)]  # checkpoints, accumulation, ends of epochs, logs of w

    def training_step(self, batch, _):
        return self.balancer(self.problem.losses(self.model, batch))  # w moves when Lightning runs it backward

    def configure_optimizers(self):
        return self.problem.build_optimizer(self.model)


class Manual(Automatic):
    """You write the loop; `manual_backward` applies Lightning's precision and strategy."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.balancer.accumulate = PARTS  # as the loop below does

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        self.manual_backward(self.balancer(self.problem.losses(self.model, batch)) / PARTS)
        if (index + 1) % PARTS == 0:
            optimizer.step()
            optimizer.zero_grad()


def train(module, epochs=30, checkpoint=None, **settings):
    """Train; a Trainer of yours has loggers, checkpoints and devices too."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    accumulate = 1 if isinstance(module, Manual) else PARTS
    trainer = lightning.Trainer(max_epochs=epochs, accumulate_grad_batches=accumulate, **quiet | settings)
    trainer.fit(module, DataLoader(module.problem.loader("train", seed=0), batch_size=None), ckpt_path=checkpoint)
    return trainer


if __name__ == "__main__":
    for kind in (Automatic, Manual):
        module = kind()
        train(module, enable_checkpointing=False)
        metrics = {task: round(value, 3) for task, value in module.problem.evaluate(module.model, "test").items()}
        weights = dict(zip(module.balancer.tasks, module.balancer.weights.tolist(), strict=True))
        print(kind.__name__, metrics, weights, module.balancer.path.name)
