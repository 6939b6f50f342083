"""Simulate studies in which the best learning rate depends on the weights: python -m benchmarks.tuned_winner

Trials are a formula in place of training. Task i is trained by SGD with the step ``s_i = learning_rate * w_i``, and
its metric is ``1 + ln(s_i / s_i*)**2`` plus noise, so that the best weights are proportional to s*, and the best
learning rate is the mean of s*. GradNorm ends at weights that suit the default learning rate better than any static
point does; with its own best learning rate, the best static point beats it. So a study at the default learning rate
names the wrong winner, and one that tunes it must name the right one. Prints how often each does.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from hpo.compare import Comparison, compare
from hpo.core.trial import AVERAGES, TrialConfig, TrialResult, TrialStatus
from hpo.problems import Problem, Task
from hpo.study.argument_sets import argument_sets
from hpo.study.plan import Plan
from hpo.study.schedule import Next, Schedule
from hpo.study.spec import Study

TASKS = ("slow", "fast")
BEST_STEPS = np.array([1.0, 0.1])
BEST_WEIGHTS = 2 * BEST_STEPS / BEST_STEPS.sum()
GRADNORM = np.array([1.5, 0.5])  # where it ends
DEFAULT_RATE = 0.2
NOISE = 0.02


class Steps(Problem):
    """Two tasks whose metric depends on the learning rate and the weights alone."""

    tasks = tuple(Task(name, "excess") for name in TASKS)
    epochs = 1

    def __init__(self, learning_rate: float = DEFAULT_RATE) -> None:
        self.learning_rate = learning_rate

    def build_model(self, seed: int) -> nn.Module:
        """Raise, as do all methods of training: trials are a formula."""
        raise NotImplementedError

    def loader(self, split: str, seed: int) -> Iterable[Any]:
        """See `build_model`."""
        raise NotImplementedError

    def losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """See `build_model`."""
        raise NotImplementedError

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        """See `build_model`."""
        raise NotImplementedError


def study(seed: int, tunes: bool) -> Plan:
    """Return a study of five static points and one recipe, at the default learning rate or with it tuned."""
    points = [[1.0, 1.0], BEST_WEIGHTS.tolist(), [0.5, 1.5], [0.2, 1.8], [1.95, 0.05], [0.8, 1.2], [1.2, 0.8]]
    content: dict[str, Any] = {
        "name": "tuned",
        "problem": {"name": "benchmarks.tuned_winner:Steps"},
        "seed": seed,
        "seeds": 3,
        "static": points,
        "shortlist": "off",
        "gradnorm": {"recipes": ["direct"], "trials": 7},
        "references": ["single_task", "equal"],
    }
    content |= {"tune": {"learning_rate": {"log": [0.05, 1.5]}, "trials": 7}} if tunes else {}
    spec = Study.model_validate(content)
    return Plan(spec, Steps(), sets=argument_sets(spec, Steps()))


def train(config: TrialConfig) -> TrialResult:
    """Return the result of a trial by the formula."""
    rate = float(config.arguments.get("learning_rate", DEFAULT_RATE))
    w = _weights(config.method, config.settings)
    noise = random.Random(config.identity)
    excess = np.log(rate * w / BEST_STEPS) ** 2
    metrics = [1 + x + noise.gauss(0, NOISE) for x in excess]
    validation = dict(zip(TASKS, metrics, strict=True))
    mean = dict(zip(TASKS, w.tolist(), strict=True))
    return TrialResult(
        TrialStatus.FINISHED,
        steps=100,
        seconds=1.0,
        validation=validation,
        test={task: value + noise.gauss(0, NOISE) for task, value in validation.items()} if config.test else {},
        averages=dict.fromkeys(AVERAGES, mean),
    )


def _weights(method: str, settings: Mapping[str, Any]) -> np.ndarray:
    if method == "static":
        return np.array([settings["weights"][task] for task in TASKS])
    if method == "gradnorm":
        off = 0.1 * abs(settings["alpha"] - 0.5)
        return GRADNORM + np.array([off, -off])
    return np.ones(2)


def run(plan: Plan) -> Comparison:
    """Run all trials of a study and compare them."""
    schedule = Schedule(plan)
    while (planned := schedule.next()) is not Next.FINISHED:
        assert not isinstance(planned, Next)
        schedule.finished(planned.config.identity, train(planned.config))
    sets = {label: found.values for label, found in plan.sets.items()}
    return compare(schedule.table(), plan.scoring, plan.study.margin, sets=sets)


def main() -> None:
    """Count the verdicts of both kinds of study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    print("| study | verdict on GradNorm | recommended static point is the best | best learning rate found |")
    print("| --- | --- | --- | --- |")
    for name, tunes in (("default learning rate", False), ("tuned", True)):
        found = [run(study(seed, tunes)) for seed in range(seeds)]
        verdicts = Counter(one.verdict.kind for one in found)
        told = ", ".join(f"{kind} {count}" for kind, count in verdicts.most_common())
        points = sum(one.recommended.startswith("static/01") for one in found)
        rates = Counter(one.tuning.best_set("static/01") for one in found if tunes)
        rate = ", ".join(f"{label.partition('=')[2]} ({count})" for label, count in rates.most_common()) or "-"
        print(f"| {name} | {told} | {points} of {seeds} | {rate} |")


if __name__ == "__main__":
    main()
