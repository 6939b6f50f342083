"""A static search and an alpha sweep written by hand: Ray Tune, its Optuna search, its MLflow callback.

    python -m benchmarks.plain_tune census points.json --alphas 8 --output folder

`benchmarks.sweep` compares a study of gradsweep with this script. Problem and balancers come from gradsweep, so that
both train the same; everything else is as in Ray's documentation, with its defaults. ``points.json`` is a list of
weights by task.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import mlflow
import ray
import torch
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from balancers import Balancer, GradNorm, Static
from hpo.problems import load_problem
from hpo.problems.base import to_device

STARTS = [{"alpha": 0.0}, {"alpha": 0.5}, {"alpha": 1.5}]


def train(config: dict[str, Any], problem_name: str, arguments: dict[str, Any], seed: int) -> None:
    """Train with ``config["weights"]`` fixed, or with GradNorm at ``config["alpha"]``; report every epoch."""
    problem = load_problem(problem_name, arguments)
    problem.prepare()
    tasks = [task.name for task in problem.tasks]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    model = problem.build_model(seed).to(device)
    optimizer = problem.build_optimizer(model)
    balancer: Balancer
    if "weights" in config:
        balancer = Static(tasks, config["weights"])
    else:
        balancer = GradNorm.paper(tasks, problem.shared_layer(model), config["alpha"])
    batches = problem.loader("train", seed)
    seconds = 0.0
    for _ in range(problem.epochs):
        begin = time.perf_counter()
        model.train()
        steps = []
        for batch in batches:
            optimizer.zero_grad()
            balancer.backward(problem.losses(model, to_device(batch, device)))
            optimizer.step()
            assert balancer.last is not None
            steps.append(torch.stack([balancer.last.losses, balancer.last.weights]))
        losses, weights = torch.stack(steps).mean(0).tolist()
        seconds += time.perf_counter() - begin
        model.eval()
        with torch.no_grad():
            metrics = problem.evaluate(model, "val")
        report = {f"loss/{task}": loss for task, loss in zip(tasks, losses, strict=True)}
        report |= {f"weight/{task}": weight for task, weight in zip(tasks, weights, strict=True)}
        report |= {f"val/{task}": metrics[task] for task in tasks}
        signs = {task.name: 1 if task.direction == "minimize" else -1 for task in problem.tasks}
        score = sum(sign * math.log(metrics[task]) for task, sign in signs.items())  # no unit in it
        tune.report({**report, "score": score, "train_seconds": seconds})


def results(grid: tune.ResultGrid) -> list[dict[str, Any]]:
    """Return for each trial its config and its last report."""
    if grid.errors:
        raise RuntimeError(f"{len(grid.errors)} trials failed: {grid.errors[0]}")
    kept = ("val/", "train_seconds")
    found = []
    for result in grid:
        assert result.metrics is not None
        metrics = {name: value for name, value in result.metrics.items() if name.startswith(kept)}
        found.append({"config": result.config, **metrics})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem")
    parser.add_argument("points", type=Path)
    parser.add_argument("--alphas", type=int, default=8)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", type=float, default=0.0, help="of a trial")
    parser.add_argument("--output", type=Path, required=True, help="folder; results.json has the times")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    uri, name = f"sqlite:///{output / 'mlflow.db'}", f"plain-{arguments.problem}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(name)
    ray.init("local")  # not one that happens to run here

    own = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    trainable = tune.with_parameters(train, problem_name=arguments.problem, arguments=own, seed=arguments.seed)
    trainable = tune.with_resources(trainable, {"cpu": 1, "gpu": arguments.gpu})
    points = json.loads(arguments.points.read_text())

    def run_config(part: str) -> tune.RunConfig:
        logger = MLflowLoggerCallback(tracking_uri=uri, experiment_name=name)
        return tune.RunConfig(name=part, storage_path=str(output / "ray"), callbacks=[logger])

    began = time.time()
    static = tune.Tuner(
        trainable,
        param_space={"weights": tune.grid_search(points)},
        run_config=run_config("static"),
    ).fit()
    sweep = tune.Tuner(
        trainable,
        param_space={"alpha": tune.uniform(0.0, 1.5)},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="min",
            num_samples=arguments.alphas,
            search_alg=OptunaSearch(points_to_evaluate=STARTS[: arguments.alphas]),
        ),
        run_config=run_config("alpha"),
    ).fit()
    ended = time.time()
    content = {"began": began, "ended": ended, "trials": [*results(static), *results(sweep)]}
    (output / "results.json").write_text(json.dumps(content))


if __name__ == "__main__":
    main()
