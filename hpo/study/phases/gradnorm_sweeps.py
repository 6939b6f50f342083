"""The alpha sweeps: GradNorm with the values of alpha that Optuna suggests, one sweep per recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from hpo.compare import best_trial
from hpo.core.trial import PlannedTrial, TrialConfig
from hpo.study.alpha_sweep import AlphaSweep, Parameters
from hpo.study.argument_sets import OWN
from hpo.study.phases.base import Fits, SoFar, StudyPhase
from hpo.study.phases.shortlist import shortlist_arms
from hpo.study.plan import Candidate, Plan, sweep_parameters

ARGUMENTS = "arguments"  # of the search space: the label of a set


class GradNormSweeps(StudyPhase):
    """GradNorm runs on the search seed, each suggested once the scores that it depends on are known."""

    name: ClassVar[str] = "sweep"
    pool: ClassVar[str] = "sweep"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self._untold: dict[str, PlannedTrial] = {}  # by identity, those whose sweep has no score yet
        recipes = self.plan.study.recipes
        known = [config for config in so_far.configs if config.identity not in unsearched(self.plan)]
        found = {recipe: [c for c in known if sweep_recipe(self.plan, c) == recipe] for recipe in recipes}
        self.sweeps = {recipe: _sweep(self.plan, recipe, found[recipe]) for recipe in recipes} if so_far.runs else {}
        for recipe, own in found.items():
            for config in own:
                self._adopt(sweep_trial(self.plan, recipe, _suggested(self.plan, config)))

    def trials(self) -> Sequence[PlannedTrial]:
        """By recipe and parameters, whichever came first. See `StudyPhase`."""
        return sorted(self._trials, key=self._place)

    def size(self) -> tuple[int, int]:
        """See `StudyPhase`."""
        spec = self.plan.study.gradnorm
        count = len(spec.recipes) * spec.trials if spec else 0
        return count, count

    def describe(self) -> str:
        """See `StudyPhase`."""
        spec = self.plan.study.gradnorm
        if spec is None:
            return "off"
        return (
            f"alpha {spec.alpha[0]:g} to {spec.alpha[1]:g}, {spec.trials} trials for each of "
            f"{', '.join(spec.recipes)}; seed {self.plan.study.seed}"
        )

    def chosen(self, search: pd.DataFrame) -> list[Candidate]:
        """For each recipe the run at its best alpha and networks retrained with its E_t[w]. See `StudyPhase`."""
        arms: list[Candidate] = []
        for recipe in self.plan.study.recipes:
            runs = search[(search["kind"] == "gradnorm") & (search["recipe"] == recipe)]
            for name, (low, high) in self.plan.ranges(recipe).items():  # the shortlist's runs may lie outside
                runs = runs[runs[name].between(low, high)]
            best = best_trial(runs)
            if best is not None:
                arms += self.plan.gradnorm_arms(recipe, best)
        return arms

    @property
    def most_chosen(self) -> int:
        """See `StudyPhase`."""
        return len(self.plan.study.recipes) * (1 + len(self.plan.study.confirm.averages))

    @property
    def remaining(self) -> int:
        """See `StudyPhase`."""
        return sum(sweep.remaining for sweep in self.sweeps.values())

    @property
    def total(self) -> int:
        """The trials not known yet. A sweep that suggests one alpha twice runs it once. See `StudyPhase`."""
        return super().total if self.so_far.runs else max(super().total, self.size()[1])

    def next(self, fits: Fits | None = None) -> PlannedTrial | None:
        """Return a trial of the first sweep that has enough scores for its next suggestion. See `StudyPhase`."""
        for recipe, sweep in self.sweeps.items():
            while (parameters := sweep.peek()) is not None:
                planned = sweep_trial(self.plan, recipe, parameters)
                if fits is not None and not fits(planned):
                    break
                sweep.ask()
                self._adopt(planned)
                if not self.so_far.is_out(planned):
                    return planned
                self.settle()
        return None

    def settle(self) -> list[PlannedTrial]:
        """Pass the known scores to the sweeps: those whose references have ended."""
        pairs = self.so_far.ended(self._untold.values())
        scores = self.so_far.scores(pairs) if pairs else None
        for planned, _ in pairs if scores is not None else ():
            identity = planned.config.identity
            del self._untold[identity]
            if sweep := self.sweeps.get(str(planned.config.settings["recipe"])):
                assert scores is not None
                sweep.tell(identity, scores[identity] if np.isfinite(scores[identity]) else None)
        return []

    def _adopt(self, planned: PlannedTrial) -> None:
        if planned.config.identity not in self._identities:
            self._know(planned)
            self._untold[planned.config.identity] = planned

    def _place(self, planned: PlannedTrial) -> tuple[int, list[tuple[str, Any]]]:
        recipe = planned.config.settings["recipe"]
        return self.plan.study.recipes.index(recipe), sorted(_suggested(self.plan, planned.config).items())


def unsearched(plan: Plan) -> set[str]:
    """Return the identities of the GradNorm runs of the shortlist, which are no results of a sweep unless it asks."""
    return {plan.search_trial(GradNormSweeps.name, arm).config.identity for arm in shortlist_arms(plan)}


def sweep_trial(plan: Plan, recipe: str, parameters: Parameters) -> PlannedTrial:
    """Return one run of a recipe's sweep."""
    values = dict(parameters)
    arguments = values.pop(ARGUMENTS, OWN)
    return plan.search_trial(GradNormSweeps.name, plan.gradnorm_arm(recipe, values, arguments))


def _suggested(plan: Plan, config: TrialConfig) -> dict[str, Any]:
    """Return what the sweep suggested for a trial, the label of its arguments included where it searches them."""
    arguments = {ARGUMENTS: plan.label_of(config.arguments) or OWN} if plan.is_tuned else {}
    return {**sweep_parameters(config), **arguments}


def sweep_recipe(plan: Plan, config: TrialConfig) -> str | None:
    """Return the recipe of a sweep's trial; ``None`` for trials of another study or phase."""
    recipe, parameters = config.settings.get("recipe"), sweep_parameters(config)
    if config.method != "gradnorm" or recipe not in plan.study.recipes:
        return None
    if parameters.keys() != plan.ranges(str(recipe)).keys():
        return None
    return str(recipe) if config == sweep_trial(plan, recipe, _suggested(plan, config)).config else None


def _sweep(plan: Plan, recipe: str, finished: Sequence[TrialConfig]) -> AlphaSweep:
    def identify(parameters: Parameters) -> str:
        return sweep_trial(plan, recipe, parameters).config.identity

    known = {config.identity: _suggested(plan, config) for config in finished}
    spec = plan.study.gradnorm
    assert spec is not None  # it names the recipe
    space = spec.space(recipe, tuple(plan.sets) if plan.is_tuned else ())
    return AlphaSweep(space, spec.trials, plan.study.seed, identify, known)
