"""A problem of your own: read handwritten digits, and measure their ink. Run it with

gradsweep run examples/own_problem.yaml
"""

from sklearn.datasets import load_digits
from torch import Generator, cat, nn, randperm, tensor
from torch.nn.functional import cross_entropy, mse_loss

from hpo.problems import Problem, Task

SPLITS = {"train": slice(0, 1200), "val": slice(1200, 1500), "test": slice(1500, None)}


class Digits(Problem):
    """Two tasks whose raw losses differ 400-fold: cross-entropy, and squared error in percent of the page."""

    tasks = (Task("digit", "accuracy", "maximize"), Task("ink", "R2", "maximize"))
    epochs = 30

    def __init__(self, hidden: int = 64):  # what `problem:` in the study file may set
        self.hidden = hidden

    def build_model(self, seed):
        trunk = nn.Sequential(nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.hidden), nn.ReLU())
        return nn.ModuleDict(
            {"trunk": trunk, "digit": nn.Linear(self.hidden, 10), "ink": nn.Linear(self.hidden, 1)}
        )  # torch is seeded for you

    def shared_layer(self, model):
        return model["trunk"][2]  # the last layer that both tasks share

    def loader(self, split, seed):
        images, digits = load_digits(return_X_y=True)
        x, y = tensor(images[SPLITS[split]]).float() / 16, tensor(digits[SPLITS[split]])
        order = randperm(len(x), generator=Generator().manual_seed(seed)) if split == "train" else range(len(x))
        return [(x[order[i : i + 50]], y[order[i : i + 50]]) for i in range(0, len(x), 50)]

    def predict(self, model, images):
        features = model["trunk"](images)
        return model["digit"](features), 100 * model["ink"](features)[:, 0]

    def losses(self, model, batch):
        images, digits = batch
        logits, ink = self.predict(model, images)
        return {"digit": cross_entropy(logits, digits), "ink": mse_loss(ink, 100 * images.mean(1))}

    def evaluate(self, model, split):
        device = next(model.parameters()).device
        images, digits = (cat(parts) for parts in zip(*self.batches(split, device), strict=True))
        logits, ink = self.predict(model, images)
        target = 100 * images.mean(1)
        accuracy = (logits.argmax(1) == digits).float().mean()
        r2 = 1 - (ink - target).square().sum() / (target - target.mean()).square().sum()
        return {"digit": accuracy.item(), "ink": r2.item()}
