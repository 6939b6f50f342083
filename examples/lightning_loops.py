"""GradNorm in Lightning, with manual and with automatic optimisation: python -m examples.lightning_loops

Both accumulate two batches into a step; both keep the balancer in Lightning's checkpoints.
"""

import lightning
from torch.utils.data import DataLoader

from balancers import GradNorm
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
        self.balancer = GradNorm.robust(["digit", "ink"], shared, alpha=0.5, accumulate=PARTS)

    def training_step(self, batch, _):
        return self.balancer(self.problem.losses(self.model, batch))  # w moves when Lightning runs it backward

    def configure_optimizers(self):
        return self.problem.build_optimizer(self.model)

    def on_train_epoch_end(self):
        self.balancer.end_epoch()  # Lightning's last step of an epoch may have fewer batches

    def on_save_checkpoint(self, checkpoint):
        checkpoint["balancer"] = self.balancer.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.balancer.load_state_dict(checkpoint["balancer"])


class Manual(Automatic):
    """The loop is yours; `manual_backward` carries Lightning's precision and strategy."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

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
