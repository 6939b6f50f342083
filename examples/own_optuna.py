"""Your own Optuna study over GradNorm's alpha: one number to search, however many tasks there are.

Run: python examples/own_optuna.py
"""

import optuna
import torch

from balancers import GradNorm
from search_spaces import AlphaSpace

TASKS = ["metres", "decimetres"]  # the second loss is about 100 times the first, only because of its unit
SPACE = AlphaSpace(low=0.0, high=3.0)


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(32, 1) for _ in TASKS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.trunk(x).tanh()
        return torch.cat([head(features) for head in self.heads], dim=1)


def data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(256, 2, generator=random) * 4 - 2
    y = torch.stack([torch.sin(x[:, 0] * x[:, 1]), 10 * torch.cos(x[:, 0] + x[:, 1])], dim=1)
    return x, y + torch.tensor([0.1, 1.0]) * torch.randn(256, 2, generator=random)


def objective(trial: optuna.Trial) -> float:
    torch.manual_seed(0)  # every trial starts from the same network, so that only alpha differs
    (x, y), (x_val, y_val) = data(seed=1), data(seed=2)
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    # The last layer that both tasks share is where their gradients are compared. suggest() gives {"alpha": ...}.
    balancer = GradNorm.robust(tasks=TASKS, shared=model.trunk[-1], **SPACE.suggest(trial))
    for _ in range(300):
        squares = (model(x) - y).square().mean(dim=0)
        balancer.backward(dict(zip(TASKS, squares, strict=True)))  # fills .grad, then moves the weights
        optimizer.step()
        optimizer.zero_grad()
    trial.set_user_attr("weights", balancer.mean_weights("geometric").tolist())  # to train with, without GradNorm
    with torch.no_grad():  # unexplained share of each task's variance: comparable across units, unlike the losses
        return ((model(x_val) - y_val).square().mean(dim=0) / y_val.var(dim=0)).mean().item()


if __name__ == "__main__":
    torch.set_num_threads(1)  # the network is too small for more
    study = optuna.create_study(sampler=SPACE.sampler(seed=0))
    for point in SPACE.starting_points():  # alphas known to be worth a trial come first
        study.enqueue_trial(point)
    study.optimize(objective, n_trials=10)
    print(f"alpha {study.best_params['alpha']:.2f} leaves {study.best_value:.4f} of the variance unexplained;")
    print(f"its average weights: {dict(zip(TASKS, study.best_trial.user_attrs['weights'], strict=True))}")
