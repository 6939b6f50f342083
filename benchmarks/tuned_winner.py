"""Simulate studies in which the best learning rate depends on the weights: python -m benchmarks.tuned_winner

Trials are a formula in place of training. Task i is trained by SGD with the step ``s_i = learning_rate * w_i``, and
its metric is ``1 + ln(s_i / s_i*)**2`` plus noise, so that the best weights are proportional to s*, and the best
learning rate is the mean of s*. GradNorm ends at other weights, and has 0.6 of the excess that static weights have
there. At the default learning rate it beats every static point; with its own best learning rate, the best static
point beats it. So a study at the default learning rate names the wrong winner, and one that tunes it must name the
right one. Prints how often each does, and which weights and learning rate the best static arm has.
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
from hpo.core.arm import Arm
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
SHARE = 0.6  # of the excess of static weights
DEFAULT_RATE = 0.2
NOISE = 0.01


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
    """Return a study of 28 static points and one recipe, at the default learning rate or with it tuned."""
    content: dict[str, Any] = {
        "name": "tuned",
        "problem": {"name": "benchmarks.tuned_winner:Steps"},
        "seed": seed,
        "seeds": 5,
        "static": {"points": 28, "ratio": 100.0},
        "shortlist": "off",
        "gradnorm": {"recipes": ["direct"], "trials": 7},
        "references": ["single_task", "equal"],
        "confirm": {"top_static": 4},
    }
    content |= {"tune": {"learning_rate": {"log": [0.05, 1.5]}, "trials": 7}} if tunes else {}
    spec = Study.model_validate(content)
    return Plan(spec, Steps(), sets=argument_sets(spec, Steps()))


def train(config: TrialConfig) -> TrialResult:
    """Return the result of a trial by the formula."""
    rate = float(config.arguments.get("learning_rate", DEFAULT_RATE))
    w = _weights(config.method, config.settings)
    noise = random.Random(config.identity)
    excess = np.log(rate * w / BEST_STEPS) ** 2 * (SHARE if config.method == "gradnorm" else 1.0)
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
    """Print a row for each kind of study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    seeds = parser.parse_args().seeds
    best = f"{BEST_WEIGHTS[0] / BEST_WEIGHTS[1]:.3g}, {BEST_STEPS.mean():.3g}"
    print(f"| study | verdict on GradNorm | static: ratio of the weights, learning rate (best: {best}) |")
    print("| --- | --- | --- |")
    for name, tunes in (("default learning rate", False), ("tuned", True)):
        found = [run(study(seed, tunes)) for seed in range(seeds)]
        counts = Counter(one.verdict.kind for one in found)
        verdicts = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
        ratios, rates = zip(*map(recommendation, found), strict=True)
        print(f"| {name} | {verdicts} | {_span(ratios)}, {_span(rates)} |", flush=True)


def recommendation(found: Comparison) -> tuple[float, float]:
    """Return the ratio of the weights of the best static arm, and the learning rate that it is trained with."""
    arm = found.verdict.static
    row = found.arms[found.arms["arm"] == arm].iloc[0]
    values = found.tuning.sets.get(Arm.parse(arm).arguments, {})
    return float(row[f"w/{TASKS[0]}"] / row[f"w/{TASKS[1]}"]), float(values.get("learning_rate", DEFAULT_RATE))


def _span(values: Iterable[float]) -> str:
    low, middle, high = np.quantile(list(values), [0, 0.5, 1])
    return f"{middle:.3g} ({low:.3g} to {high:.3g})"


if __name__ == "__main__":
    main()
