"""Your own Ray Tune sweep over loss weights: gradsweep only names the points and weighs the losses.

Run: python examples/own_tuner.py
"""

import os

os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster on this machine alone; set it before ray is imported

import ray
import torch
from ray import tune

from balancers import Static
from search_spaces import points

TASKS = ["metres", "decimetres"]  # the second loss is about 100 times the first, only because of its unit


def data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(256, 2, generator=random) * 4 - 2
    y = torch.stack([torch.sin(x[:, 0] * x[:, 1]), 10 * torch.cos(x[:, 0] + x[:, 1])], dim=1)
    return x, y + torch.tensor([0.1, 1.0]) * torch.randn(256, 2, generator=random)


def train(config: dict) -> None:
    torch.manual_seed(0)  # every trial starts from the same network, so that only the weights differ
    (x, y), (x_val, y_val) = data(seed=1), data(seed=2)
    model = torch.nn.Sequential(torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
    balancer = Static(TASKS, weights=dict(zip(TASKS, config["weights"], strict=True)))
    for _ in range(300):
        squares = (model(x) - y).square().mean(dim=0)
        balancer.backward(dict(zip(TASKS, squares, strict=True)))  # fills .grad of every parameter
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():  # unexplained share of each task's variance: comparable across units, unlike the losses
        unexplained = (model(x_val) - y_val).square().mean(dim=0) / y_val.var(dim=0)
    tune.report({**dict(zip(TASKS, unexplained.tolist(), strict=True)), "score": unexplained.mean().item()})


if __name__ == "__main__":
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    # 9 points, ratios from 1 : 10**4 to 10**4 : 1, no direction twice. A product grid would repeat most of its own.
    weights = points("log_lattice", tasks=len(TASKS), points=9, ratio=1e4).tolist()
    results = tune.Tuner(
        train,
        param_space={"weights": tune.grid_search(weights)},
        tune_config=tune.TuneConfig(metric="score", mode="min", reuse_actors=True),  # no new process for each trial
        run_config=tune.RunConfig(verbose=0),
    ).fit()
    table = results.get_dataframe()[[*TASKS, "score", "config/weights"]].sort_values("score")
    print(table.to_string(index=False, float_format="{:.4f}".format))
    ray.shutdown()
