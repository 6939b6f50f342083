"""From a study and its problem to trials, phase by phase. Pure: decides, runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hpo.compare import best_trial, closed, static_points, weights_of
from hpo.core.arm import FULL, KNOWN, REFERENCE, Arm
from hpo.core.errors import StudyError
from hpo.core.trial import AVERAGES, Phase, PlannedTrial, TrialConfig
from hpo.problems.base import Problem
from hpo.study.halving import Halving
from hpo.study.spec import StaticSpec, Study
from search_spaces import DESIGNS, explicit, points
from search_spaces.dirichlet import SMALLEST

FROZEN_RULES = ("loss", "gradient")


class Candidate(NamedTuple):
    """An arm with the method and the settings that train it."""

    arm: Arm
    method: str
    settings: dict[str, Any]


EQUAL = Candidate(Arm("equal"), "equal", {})


class Plan:
    """The trials of a study.

    Args:
        study: the spec.
        problem: the problem it names, prepared.
        text: the study file as it was read; what is done to it later changes nothing.

    Raises:
        StudyError: points or options that the design refuses for this number of tasks.
    """

    def __init__(self, study: Study, problem: Problem, text: str = "") -> None:
        self.study, self.text = study, text
        self.tasks = [task.name for task in problem.tasks]
        self.metrics = {task.name: task.metric for task in problem.tasks}
        self.directions = {task.name: 1 if task.direction == "minimize" else -1 for task in problem.tasks}
        self.known = problem.known_weights
        self.epochs = study.epochs or problem.epochs
        self.search_epochs = study.search.epochs or self.epochs
        if self.search_epochs > self.epochs:
            raise StudyError(
                f"search.epochs: found {self.search_epochs}, "
                f"allowed: at most {self.epochs}, those of the confirm phase"
            )
        self.data_hash = problem.data_hash()
        rounded = [short_weights(self.tasks, w) for w in _rows(study.static, self.tasks, study.seed)]
        distinct = {tuple(w.values()): w for w in rounded}  # six digits may make two points one
        self._points = list(distinct.values())[1:]

    @property
    def random_points(self) -> bool:
        """Whether the static points were drawn at random, so that they stand for all points like them."""
        return not self.study.static.explicit and DESIGNS[self.study.static.design].random

    def references(self) -> list[PlannedTrial]:
        """Single task and uncertainty on the search seed; equal weights are a point of the static search."""
        arms = [candidate for candidate in self._reference_arms() if candidate != EQUAL]
        return [self._planned(Phase.REFERENCES, candidate, self.study.seed) for candidate in arms]

    def static(self) -> list[PlannedTrial]:
        """Every point of the design on the search seed; the first is equal weights."""
        arms = [EQUAL, *(self._point("static", number) for number in range(1, len(self._points) + 1))]
        return [self._planned(Phase.STATIC, candidate, self.study.seed) for candidate in arms]

    def full(self) -> list[PlannedTrial]:
        """Static points that are also trained to the end, where the search does not: how far its order is right."""
        if self.search_epochs == self.epochs:
            return []
        count = min(self.study.search.full, len(self._points))
        chosen = sorted({round(place) for place in np.linspace(0, len(self._points) - 1, count)}) if count else []
        arms = [self._point(FULL, place + 1) for place in chosen]
        return [self._planned(Phase.STATIC, candidate, self.study.seed, epochs=self.epochs) for candidate in arms]

    def halving(self) -> Halving:
        """Which static points are trained on, rung by rung; without `search.halving` all are, to the end."""
        eta = self.study.search.halving
        points = [p.config.identity for p in self.static() if p.arm != EQUAL.arm.key] if eta else []
        return Halving(points, self.search_epochs, eta or 2, self.study.confirm.top_static)

    def sweep(self, recipe: str, parameters: Mapping[str, float]) -> PlannedTrial:
        """One run of the alpha sweep on the search seed."""
        return self._planned(Phase.SWEEP, self._gradnorm_arm(recipe, parameters), self.study.seed)

    def sweep_recipe(self, config: TrialConfig) -> str | None:
        """The recipe whose sweep a finished trial belongs to, ``None`` if it is of another study or phase."""
        recipe, parameters = config.settings.get("recipe"), sweep_parameters(config)
        if config.method != "gradnorm" or recipe not in self.study.gradnorm.recipes:
            return None
        if parameters.keys() != self.study.gradnorm.ranges(recipe).keys():
            return None
        return str(recipe) if config == self.sweep(recipe, parameters).config else None

    def confirm_fixed(self) -> list[PlannedTrial]:
        """What the confirm phase trains whatever the search finds, seed by seed."""
        return self._confirm(self._fixed_arms())

    def confirm_chosen(self, search: pd.DataFrame) -> list[PlannedTrial]:
        """What the search has chosen: the best static points, the best alpha and its E_t[w], seed by seed.

        Args:
            search: the scored trials of the search seed, best first (`hpo.compare.Comparison.search`).
        """
        best_points = [Arm.parse(key) for key in static_points(search)["arm"].head(self.study.confirm.top_static)]
        arms = [EQUAL if arm == EQUAL.arm else self._point("static", arm.number) for arm in best_points]
        for recipe in self.study.gradnorm.recipes:
            best = best_trial(search[(search["kind"] == "gradnorm") & (search["recipe"] == recipe)])
            if best is not None:
                arms += self._gradnorm_arms(recipe, best)
        return self._confirm(arms)

    def size(self) -> dict[Phase, tuple[int, int]]:
        """For each phase its arms and trials; of the confirm phase at most, since arms may coincide."""
        gradnorm, confirm, seeds = self.study.gradnorm, self.study.confirm, self.study.seeds
        sweep = len(gradnorm.recipes) * gradnorm.trials
        static = 1 + len(self._points)
        chosen = min(confirm.top_static, static) + len(gradnorm.recipes) * (1 + len(confirm.averages))
        arms = len(self._fixed_arms()) + chosen
        references = len(self.references())
        return {
            Phase.REFERENCES: (references, references),
            Phase.STATIC: (static + len(self.full()), static + len(self.full())),
            Phase.SWEEP: (sweep, sweep),
            Phase.CONFIRM: (arms, arms * seeds),
        }

    def _point(self, kind: str, number: int) -> Candidate:
        """A point of the static search, counted from 1."""
        return Candidate(Arm(kind, number=number), "static", {"weights": self._points[number - 1]})

    def _reference_arms(self) -> list[Candidate]:
        arms: list[Candidate] = []
        for reference in self.study.references:
            if reference == REFERENCE:
                arms += [Candidate(Arm(REFERENCE, task=task), "single_task", {"task": task}) for task in self.tasks]
            else:
                arms.append(Candidate(Arm(reference), reference, {}))
        return arms

    def _fixed_arms(self) -> list[Candidate]:
        arms = self._reference_arms()
        arms += [Candidate(Arm("frozen", rule=rule), "frozen", {"rule": rule}) for rule in FROZEN_RULES]
        if self.known is not None:
            w = closed([self.known[task] for task in self.tasks])
            arms.append(Candidate(Arm(KNOWN), "static", {"weights": short_weights(self.tasks, w)}))
        return arms

    def _gradnorm_arm(self, recipe: str, parameters: Mapping[str, float]) -> Candidate:
        told = {name: float(f"{value:.4g}") for name, value in parameters.items()}
        for name, (low, high) in self.study.gradnorm.ranges(recipe).items():
            told[name] = min(max(told[name], low), high)  # rounding must not leave the range
        return Candidate(Arm("gradnorm", recipe=recipe, parameters=told), "gradnorm", {"recipe": recipe, **told})

    def _gradnorm_arms(self, recipe: str, best: pd.Series) -> Iterator[Candidate]:
        """The dynamic run at the best alpha and the networks retrained with its E_t[w] frozen."""
        yield self._gradnorm_arm(recipe, {name: best[name] for name in self.study.gradnorm.ranges(recipe)})
        for average in AVERAGES:
            if average in self.study.confirm.averages:
                w = weights_of(best, self.tasks, average)
                if np.isfinite(w).all():  # an older gradsweep has not recorded every average
                    arm = Arm("gradnorm_static", recipe=recipe, average=average)
                    yield Candidate(arm, "static", {"weights": short_weights(self.tasks, w)})

    def _confirm(self, arms: Sequence[Candidate]) -> list[PlannedTrial]:
        seeds = self.study.confirm_seeds
        return [self._planned(Phase.CONFIRM, candidate, seed, test=True) for seed in seeds for candidate in arms]

    def _planned(
        self, phase: Phase, candidate: Candidate, seed: int, test: bool = False, epochs: int | None = None
    ) -> PlannedTrial:
        config = TrialConfig(
            problem=self.study.problem.name,
            arguments=self.study.problem.arguments,
            data_hash=self.data_hash,
            method=candidate.method,
            settings=candidate.settings,
            seed=seed,
            epochs=epochs or (self.search_epochs if phase.is_search else self.epochs),
            test=test,
        )
        return PlannedTrial(config, phase, candidate.arm.key)


def sweep_parameters(config: TrialConfig) -> dict[str, float]:
    """What Optuna chose for a GradNorm trial."""
    return {name: config.settings[name] for name in ("alpha", "learning_rate") if name in config.settings}


def short_weights(tasks: Sequence[str], w: Sequence[float] | Any) -> dict[str, float]:
    """Weights by task with six digits: what a person can read is exactly what is trained with."""
    return {task: float(f"{value:.6g}") for task, value in zip(tasks, w, strict=True)}


def _rows(spec: StaticSpec, tasks: Sequence[str], seed: int) -> Any:
    """The points of the static search, shape (n, T); the first is equal weights."""
    rows = [_row(k, point, tasks) for k, point in enumerate(spec.explicit)]
    try:
        if rows:
            found = explicit(rows, len(tasks))
        else:
            found = points(spec.design, len(tasks), spec.points, seed, **spec.options)
    except ValueError as error:
        raise StudyError(f"static: {error}") from None
    if (least := found.min()) < SMALLEST:  # it would be 0 in training
        raise StudyError(f"static: found a weight of {least:.2g}, allowed: at least {SMALLEST:.2g}, as float32 holds")
    return found


def _row(k: int, point: Sequence[float] | Mapping[str, float], tasks: Sequence[str]) -> list[float]:
    """An explicit point in the order of the tasks."""
    w: dict[Any, float] = dict(point if isinstance(point, Mapping) else enumerate(point))
    keys = tasks if isinstance(point, Mapping) else range(len(tasks))
    if w.keys() != set(keys):
        raise StudyError(f"static[{k}]: found {point}, allowed: a number for each of the tasks {', '.join(tasks)}")
    return [w[key] for key in keys]
