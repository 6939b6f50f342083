"""The arms and trials of a study. Pure: runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from hpo.compare import closed, weights_of
from hpo.core.arm import BASELINE, KNOWN, REFERENCE, Arm
from hpo.core.errors import StudyError
from hpo.core.text import cut
from hpo.core.trial import AVERAGES, PlannedTrial, TrialConfig
from hpo.problems.training_function import AnyProblem, FunctionProblem
from hpo.study.argument_sets import OWN, ArgumentSet
from hpo.study.spec import StaticSpec, Study
from hpo.study.study_scoring import scoring_of
from search_spaces import DESIGNS, explicit, points, region
from search_spaces.dirichlet import SMALLEST

FROZEN_RULES = ("loss", "gradient")


class Candidate(NamedTuple):
    """An arm with the method and the settings that train it."""

    arm: Arm
    method: str
    settings: dict[str, Any]

    def with_arguments(self, label: str) -> Candidate:
        """Return the same with a set of the problem's arguments."""
        return self._replace(arm=replace(self.arm, arguments=label))

    def trains_like(self, other: Candidate) -> bool:
        """Return whether both are one arm by other names."""
        return (self.method, self.settings) == (other.method, other.settings)


EQUAL = Candidate(Arm("equal"), "equal", {})


class Plan:
    """The arms of a study and the trials that train them.

    Args:
        study: the spec.
        problem: the problem it names, prepared.
        text: the study file as it was read; later edits of the file have no effect.
        sets: of arguments to train with, the problem's own first (`argument_sets`). Default: the problem's own.

    Attributes:
        sets: by their label.
        is_function: whether a training function trains its trials, one at a time.

    Raises:
        StudyError: the design refuses the points or options for this number of tasks; baseline, priorities or
            limits name other tasks.
    """

    def __init__(self, study: Study, problem: AnyProblem, text: str = "", sets: Sequence[ArgumentSet] = ()) -> None:
        self.study, self.text = study, text
        self.tasks = [task.name for task in problem.tasks]
        self.metrics = {task.name: task.metric for task in problem.tasks}
        self.scoring = scoring_of(study, problem.tasks)
        self.known = problem.known_weights
        self.is_function = isinstance(problem, FunctionProblem)
        self.epochs = study.epochs or problem.epochs
        self.search_epochs = study.search.epochs or self.epochs
        if self.search_epochs > self.epochs:
            raise StudyError(
                f"search.epochs: expected at most {self.epochs}, those of the confirm phase, got {self.search_epochs}"
            )
        self.baseline = _baseline(study, self.tasks)
        self.data_hash = sets[0].data_hash if sets else problem.data_hash()
        self.sets = {one.label: one for one in sets or [ArgumentSet(OWN, {}, self.data_hash)]}
        self._points = [] if self.is_centered else self._distinct(_rows(study.static, self.tasks, study.seed))

    def of(self, study: Study) -> Plan:
        """Return the plan of the same problem for another study of it."""
        other = copy(self)
        other.study = study
        other._points = [] if other.is_centered else other._distinct(_rows(study.static, self.tasks, study.seed))
        return other

    @property
    def random_points(self) -> bool:
        """Return whether the static points were drawn at random, so that they stand for all points like them."""
        static = self.study.static
        return static is not None and not static.explicit and DESIGNS[static.design].random

    @property
    def is_tuned(self) -> bool:
        """Return whether arms are trained with more than one set of arguments."""
        return len(self.sets) > 1

    def arguments(self, label: str) -> dict[str, Any]:
        """Return the problem's arguments in the set of a label."""
        given = self.study.problem.arguments
        return given if label == OWN else {**given, **self.sets[label].values}

    def label_of(self, arguments: Mapping[str, Any]) -> str | None:
        """Return the label of the set with these arguments of the problem; ``None`` if there is none."""
        return next((label for label in self.sets if self.arguments(label) == arguments), None)

    @property
    def is_searched(self) -> bool:
        """Return whether there is a static search or an alpha sweep; else the shortlist alone chooses."""
        return self.study.static is not None or self.study.gradnorm is not None

    @property
    def is_centered(self) -> bool:
        """Return whether the static points lie around the first-step weights, which a trial must find first."""
        return self.study.static is not None and self.study.static.from_first_step

    @property
    def points(self) -> int:
        """The number of static points without equal weights."""
        static = self.study.static
        return static.points - 1 if static is not None and self.is_centered else len(self._points)

    def points_around(self, weightings: Sequence[Sequence[float]]) -> list[Candidate]:
        """Return the static points around some weightings; around equal weights if there is none."""
        spec = self.study.static
        assert spec is not None
        around: dict[str, Any] = dict(zip(("center", "ratio"), region(weightings), strict=True)) if weightings else {}
        rows = points(spec.design, len(self.tasks), spec.points, self.study.seed, **around)
        rows = rows[(rows >= SMALLEST).all(axis=1)]  # others would be 0 in training
        return self._numbered(self._distinct(rows))

    def search_trial(self, phase: str, candidate: Candidate, epochs: int | None = None) -> PlannedTrial:
        """Return a trial on the search seed; the default for ``epochs`` is the search's."""
        return self._planned(phase, candidate, self.study.seed, epochs or self.search_epochs, test=False)

    def race_trial(self, phase: str, candidate: Candidate, place: int) -> PlannedTrial:
        """A trial on the seed of a place in the race of the shortlist; at place 0 it is the search seed."""
        seed = self.study.race_seed(place) if place else self.study.seed
        return self._planned(phase, candidate, seed, self.search_epochs, test=False)

    def confirm_trial(self, phase: str, candidate: Candidate, seed: int) -> PlannedTrial:
        """Return a trial that is trained to the end and evaluated on the test split."""
        return self._planned(phase, candidate, seed, self.epochs, test=True)

    def static_points(self) -> list[Candidate]:
        """Return the static points without equal weights; none if they lie around weights that are yet unknown."""
        return self._numbered(self._points)

    def _numbered(self, rows: Sequence[dict[str, float]]) -> list[Candidate]:
        """Return points as arms; each set of arguments has as many of them as any other, or one less."""
        labels = list(self.sets)
        places = np.arange(len(rows)) % len(labels)
        if self.is_tuned:
            places = np.random.default_rng(self.study.seed).permutation(places)
        return [
            Candidate(Arm("static", number=k + 1, arguments=labels[places[k]]), "static", {"weights": w})
            for k, w in enumerate(rows)
        ]

    def _distinct(self, rows: Any) -> list[dict[str, float]]:
        """Return points, shape (n, T), by task and without the first, equal weights."""
        rounded = [short_weights(self.tasks, w) for w in rows]
        return list({tuple(w.values()): w for w in rounded}.values())[1:]  # six digits may make two points one

    def reference_arms(self) -> list[Candidate]:
        """Return the arms of the methods that the study names as references."""
        arms: list[Candidate] = []
        for reference in self.study.references:
            if reference == REFERENCE:
                arms += [Candidate(Arm(REFERENCE, task=task), "single_task", {"task": task}) for task in self.tasks]
            else:
                arms.append(Candidate(Arm(reference), reference, {}))
        return arms

    def fixed_arms(self) -> list[Candidate]:
        """The arms that need no search: references, baseline, first-step weights, weights that the problem knows."""
        arms = self.reference_arms()
        if not self.is_searched:  # the shortlist has compared the other methods
            arms = [arm for arm in arms if arm.arm.kind == REFERENCE]
        arms += [EQUAL] if self.study.static is None and EQUAL not in arms else []
        arms += [self.baseline] if self.baseline is not None and self.baseline not in arms else []
        arms += self.first_step_arms() if self.is_searched else []
        if self.known is not None:
            w = closed([self.known[task] for task in self.tasks])
            arms.append(Candidate(Arm(KNOWN), "static", {"weights": short_weights(self.tasks, w)}))
        return arms

    def first_step_arms(self) -> list[Candidate]:
        """The arms whose weights are read off the first step."""
        return [Candidate(Arm("frozen", rule=rule), "frozen", {"rule": rule}) for rule in FROZEN_RULES]

    def plain_arms(self) -> list[Candidate]:
        """The arms with fixed weights that need no other run: first-step weights, equal weights, the baseline."""
        arms = [*self.first_step_arms(), EQUAL]
        return arms if self.baseline is None or self.baseline == EQUAL else [*arms, self.baseline]

    def unsearched_arm(self, recipe: str, alpha: float) -> Candidate:
        """GradNorm at an alpha that no sweep has found."""
        arm = Arm("gradnorm", recipe=recipe, parameters={"alpha": alpha})
        return Candidate(arm, "gradnorm", {"recipe": recipe, "alpha": alpha})

    def ranges(self, recipe: str) -> dict[str, tuple[float, float]]:
        """The parameters of a recipe that its sweep searches, with their ranges; none without a sweep."""
        return self.study.gradnorm.ranges(recipe) if self.study.gradnorm else {}

    def gradnorm_arm(self, recipe: str, parameters: Mapping[str, float], arguments: str = OWN) -> Candidate:
        """Return the arm of GradNorm with parameters, rounded to four digits."""
        told = {name: float(f"{value:.4g}") for name, value in parameters.items()}
        for name, (low, high) in self.ranges(recipe).items():
            told[name] = min(max(told[name], low), high)  # rounding must not leave the range
        arm = Arm("gradnorm", recipe=recipe, parameters=told, arguments=arguments)
        return Candidate(arm, "gradnorm", {"recipe": recipe, **told})

    def gradnorm_arms(self, recipe: str, best: pd.Series) -> Iterator[Candidate]:
        """The dynamic run at the best alpha and the networks retrained with its E_t[w] frozen."""
        yield self.gradnorm_arm(recipe, {name: best[name] for name in self.ranges(recipe)})
        for average in AVERAGES:
            if average in self.study.confirm.averages:
                w = weights_of(best, self.tasks, average)
                if np.isfinite(w).all():  # an older gradsweep has not recorded every average
                    arm = Arm("gradnorm_static", recipe=recipe, average=average)
                    yield Candidate(arm, "static", {"weights": short_weights(self.tasks, w)})

    def _planned(self, phase: str, candidate: Candidate, seed: int, epochs: int, test: bool) -> PlannedTrial:
        label = candidate.arm.arguments
        config = TrialConfig(
            problem=self.study.problem.name,
            arguments=self.arguments(label),
            data_hash=self.sets[label].data_hash,
            method=candidate.method,
            settings=candidate.settings,
            seed=seed,
            epochs=epochs,
            test=test,
            select=self.study.select,
            workers=self.study.resources.workers,
        )
        return PlannedTrial(config, phase, candidate.arm.key)


def sweep_parameters(config: TrialConfig) -> dict[str, float]:
    """Return the parameters that Optuna suggested for a GradNorm trial."""
    return {name: config.settings[name] for name in ("alpha", "learning_rate") if name in config.settings}


def short_weights(tasks: Sequence[str], w: Sequence[float] | Any) -> dict[str, float]:
    """Return weights by task, rounded to six digits, so that the weights shown are exactly those trained with."""
    return {task: float(f"{value:.6g}") for task, value in zip(tasks, w, strict=True)}


def _rows(spec: StaticSpec | None, tasks: Sequence[str], seed: int) -> Any:
    """Return the points of the static search, shape (n, T); the first is equal weights."""
    if spec is None:
        return np.ones((1, len(tasks)))
    rows = [_row(k, point, tasks) for k, point in enumerate(spec.explicit)]
    try:
        if rows:
            found = explicit(rows, len(tasks))
        else:
            found = points(spec.design, len(tasks), spec.points, seed, **spec.options)
    except ValueError as error:
        fault = str(error)
        raise StudyError(f"static{fault.removeprefix('rows') if rows else f'.{fault}'}") from None
    if (least := found.min()) < SMALLEST:  # it would be 0 in training
        raise StudyError(f"static: expected weights >= {SMALLEST:.2g}, as float32 holds, got {least:.2g}")
    return found


def _baseline(study: Study, tasks: Sequence[str]) -> Candidate | None:
    """The arm of the weights of today; ``None`` if the study names none."""
    w = study.baseline
    if w is None:
        return None
    if isinstance(w, Mapping) and w.keys() != set(tasks):
        found = cut(str(dict(w)))
        raise StudyError(f"baseline: expected a number for each of the tasks {', '.join(tasks)}, got {found}")
    values = closed([w[task] for task in tasks]) if isinstance(w, Mapping) else np.ones(len(tasks))
    if (least := values.min()) < SMALLEST:  # it would be 0 in training
        raise StudyError(f"baseline: expected weights >= {SMALLEST:.2g} of a sum of {len(tasks)}, got {least:.2g}")
    told = short_weights(tasks, values)
    return EQUAL if set(told.values()) == {1.0} else Candidate(Arm(BASELINE), "static", {"weights": told})


def _row(k: int, point: Sequence[float] | Mapping[str, float], tasks: Sequence[str]) -> list[float]:
    """Return an explicit point in the order of the tasks."""
    w: dict[Any, float] = dict(point if isinstance(point, Mapping) else enumerate(point))
    keys = tasks if isinstance(point, Mapping) else range(len(tasks))
    if w.keys() != set(keys):
        raise StudyError(f"static[{k}]: expected a number for each of the tasks {', '.join(tasks)}, got {point}")
    return [w[key] for key in keys]
