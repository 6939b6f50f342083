"""A study whose trials are a formula, driven as a launch drives it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpo.core.trial import AVERAGES, PlannedTrial, TrialConfig, TrialResult
from hpo.study.phases import PHASES
from hpo.study.phases.confirm import confirm_fixed
from hpo.study.phases.references import reference_trials
from hpo.study.phases.static_search import static_trials
from hpo.study.plan import Plan
from hpo.study.schedule import Next, Schedule
from tests.helpers.plans import make_plan
from tests.helpers.small_problem import TASKS

Fate = Callable[[TrialConfig], str]
BEST = np.array([-1.0, 0.0, 1.0])  # centred log-ratios of the best weights


def fine(config: TrialConfig) -> str:
    return "finished"


def log_weights(config: TrialConfig) -> np.ndarray:
    """Return a method's weights as centred log-ratios; GradNorm's depend on alpha and slightly on the seed."""
    if config.method == "static":
        log_w = np.log([config.settings["weights"][task] for task in TASKS])
    elif config.method == "gradnorm":
        off = abs(config.settings["alpha"] - 0.8) + (0.1 if config.settings["recipe"] == "paper" else 0.0)
        log_w = BEST * (1 - 0.5 * off) + 0.001 * config.seed
    elif config.method == "frozen":
        log_w = 0.3 * BEST + ([0.2, 0.0, 0.0] if config.settings["rule"] == "loss" else 0.0)
    else:
        log_w = np.zeros(3)
    return np.asarray(log_w - log_w.mean())


def train(config: TrialConfig, fate: Fate = fine) -> TrialResult:
    """The result of a trial, a pure function of its config."""
    status = fate(config)
    if status != "finished":
        return TrialResult(status, steps=7, seconds=0.7, error=f"it {status}")
    w = np.exp(log_weights(config))
    noise = random.Random(config.identity)
    metrics = 1 + 0.1 * (log_weights(config) - BEST) ** 2 + [noise.gauss(0, 0.001) for _ in TASKS]
    if config.method == "single_task":
        metrics = np.array([1.0 if task == config.settings["task"] else 2.0 for task in TASKS])
    late = w**1.1 if config.method == "gradnorm" else w
    averages = {name: 3 * x / x.sum() for name, x in zip(AVERAGES, (w, w, late, late), strict=True)}
    validation = dict(zip(TASKS, metrics.tolist(), strict=True))
    return TrialResult(
        "finished",
        steps=100,
        seconds=1.0,
        validation=validation,
        test={task: value + 0.001 for task, value in validation.items()} if config.test else {},
        averages={name: dict(zip(TASKS, mean.tolist(), strict=True)) for name, mean in averages.items()},
    )


@dataclass
class Study:
    """A plan and what has finished so far: what outlives a driver."""

    plan: Plan
    fate: Fate = fine
    configs: dict[str, TrialConfig] = field(default_factory=dict)
    results: dict[str, TrialResult] = field(default_factory=dict)
    handed: list[PlannedTrial] = field(default_factory=list)

    def schedule(self, run: bool = True) -> Schedule:
        """As a launch makes it: failed trials run again, sweep trials are found by their config."""
        results = {i: result for i, result in self.results.items() if result.status != "failed" or not run}
        return Schedule(self.plan, results, [self.configs[identity] for identity in results], run)

    def drive(self, schedule: Schedule, slots: int, stop: float = np.inf, order: random.Random | None = None) -> int:
        """Run with so many trials at once, ending in random order, until FINISHED or until so many have ended."""
        running: list[PlannedTrial] = []
        ended = 0
        while ended < stop:
            planned = schedule.next() if len(running) < slots else Next.WAIT
            if isinstance(planned, PlannedTrial):
                check_order(schedule, planned)
                schedule.begun(planned.config.identity)
                running.append(planned)
                self.handed.append(planned)
            elif planned is Next.FINISHED:
                assert not running
                break
            else:
                assert running, "told to wait for nothing"
                done = running.pop(order.randrange(len(running)) if order else 0)
                identity = done.config.identity
                self.configs[identity] = done.config
                self.results[identity] = train(done.config, self.fate)
                schedule.finished(identity, self.results[identity])
                ended += 1
            check_progress(schedule, len(running))
        return ended


def check_order(schedule: Schedule, planned: PlannedTrial) -> None:
    """Check that the trials that must come before this one have been handed out or have ended."""
    plan, known = schedule.plan, list(schedule.planned())
    running = {p.config.identity for p in schedule.running()}
    out = running | {p.config.identity for p in known if p.config.identity in schedule.results}
    search = {p.config.identity for p in reference_trials(plan) + static_trials(plan)}
    if planned.phase in ("sweep", "confirm"):
        assert search <= out
    fixed = {p.config.identity for p in confirm_fixed(plan)}
    if planned.phase == "confirm" and planned.config.identity not in fixed:
        assert not any(phase.remaining for phase in schedule.phases)
        assert all(p.config.identity in schedule.results for p in known if p.phase != "confirm")


def check_progress(schedule: Schedule, running: int) -> None:
    counts = schedule.progress()
    assert list(counts) == list(PHASES)
    assert sum(count["running"] for count in counts.values()) == running
    for count in counts.values():
        assert count["done"] + count["running"] + count["failed"] <= count["total"]


def identities(trials: list[PlannedTrial]) -> list[str]:
    return [planned.config.identity for planned in trials]


def small(**fields: Any) -> Plan:
    content = {"gradnorm": {"trials": 3}, "static": {"points": 4}, "confirm": {"top_static": 2}}
    return make_plan(**(content | fields))


def of_method(*methods: str) -> Fate:
    return lambda config: "diverged" if config.method in methods else "finished"
