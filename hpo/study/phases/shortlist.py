"""The shortlist: arms that need no search, on the search seed, and the close ones on more seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd

from hpo.compare.race import MOST_LATER, MOST_SECOND, leader, survivors
from hpo.core.arm import FIXED, OUTSIDE, Arm
from hpo.core.trial import PlannedTrial, TrialResult
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import Candidate, Plan, short_weights


class Shortlist(StudyPhase):
    """Trains GradNorm without a search, its E_t[w], first-step weights, equal weights and the baseline.

    The methods that the references phase trains take part too. Once all have a score on the search seed, they race:
    the close ones are trained on a second seed, then on a third (`hpo.compare.race`). Only the race uses these seeds;
    scores on them are relative to the single-task references of the search seed.
    """

    name: ClassVar[str] = "shortlist"
    pool: ClassVar[str] = "search"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self._arms = {arm.arm.key: arm for arm in shortlist_arms(self.plan)}  # grows by retrainings
        self.add(self.plan.search_trial(self.name, arm) for arm in self._arms.values())
        self._runs = {p.config.identity: p.arm for p in self._trials if p.config.method == "gradnorm"}
        self._methods = method_arms(self.plan) if self._arms else {}
        self._rounds = [list(self._arms)]  # the arms of each seed
        self._decided = not self._arms

    def size(self) -> tuple[int, int]:
        """See `StudyPhase`."""
        spec = self.plan.study.shortlist
        if spec is None:
            return 0, 0
        begun = shortlist_arms(self.plan)
        runs = sum(arm.method == "gradnorm" for arm in begun)
        arms = len(begun) + runs * len(spec.averages)
        return arms, arms + sum(_most_in_round(place) for place in range(1, spec.seeds))

    def describe(self) -> str:
        """See `StudyPhase`."""
        spec = self.plan.study.shortlist
        if spec is None:
            return "off"
        alphas = ", ".join(f"{alpha:g}" for alpha in spec.alphas)
        more = f"; the close ones on {spec.seeds - 1} more seeds" if spec.seeds > 1 else ""
        return f"GradNorm {' and '.join(spec.recipes)} at alpha {alphas}, its E_t[w], arms without a search{more}"

    @property
    def is_decided(self) -> bool:
        """Return whether every trial of the race has ended, so that `pick` is final."""
        return self._decided

    @property
    def is_urgent(self) -> bool:
        """An answer is wanted soon: a worker is kept free for retrainings and the race. See `StudyPhase`."""
        return not self._decided and any(p.config.identity in self.so_far.running for p in self._trials)

    @property
    def remaining(self) -> int:
        """See `StudyPhase`."""
        if self._decided or not self.so_far.runs:
            return 0
        return max(1, self.size()[1] - len(self._trials))

    def settle(self) -> list[PlannedTrial]:
        """Add retrainings with E_t[w] of each run that has ended, then the seeds of the race."""
        for identity in [identity for identity in self._runs if identity in self.so_far.results]:
            self._add_arms(self._retrainings(Arm.parse(self._runs.pop(identity)), self.so_far.results[identity]), 0)
        while not self._decided and not self._runs and (scores := self._scores()) is not None:
            self._next_round(scores)
        return []

    def chosen(self, search: pd.DataFrame) -> list[Candidate]:  # noqa: ARG002 - it has scores of more seeds
        """The best arm with fixed weights and, if its weights move, the best of all; all arms if the study says so.

        See `StudyPhase`.
        """
        if self.plan.study.confirm.shortlist == "all":
            return [*self._methods.values(), *self._arms.values()]
        return self.provisional()

    def provisional(self) -> list[Candidate]:
        """See `StudyPhase`."""
        picked = self.pick() if self._decided else []
        return [self._arms[key] for key in dict.fromkeys(picked) if key in self._arms]

    @property
    def most_chosen(self) -> int:
        """See `StudyPhase`."""
        every = len(self._methods) + self.size()[0]
        chosen = every if self.plan.study.confirm.shortlist == "all" else 2
        return chosen if self._arms else 0

    def pick(self) -> list[str]:
        """Return the best arm with fixed weights, and the best of all; empty while there is none."""
        scores = self._scores()
        if scores is None:
            return []
        fixed = [str(arm) for arm in scores if Arm.parse(str(arm)).kind in FIXED]
        return [arm for arm in (leader(scores, fixed), leader(scores)) if arm]

    def _retrainings(self, run: Arm, result: TrialResult) -> Iterator[Candidate]:
        """Static weights at the averages of a run, each once."""
        spec = self.plan.study.shortlist
        for average in spec.averages if spec and result.status.has_score else ():
            w = np.array([result.averages.get(average, {}).get(task, np.nan) for task in self.plan.tasks])
            if np.isfinite(w).all():
                arm = Arm("gradnorm_static", recipe=run.recipe, average=average, parameters=run.parameters)
                yield Candidate(arm, "static", {"weights": short_weights(self.plan.tasks, w)})

    def _next_round(self, scores: pd.DataFrame) -> None:
        spec = self.plan.study.shortlist
        place = len(self._rounds)
        again = survivors(scores)
        if spec is None or place >= spec.seeds or len(again) < 2:
            self._decided = True
            return
        self._rounds.append(again)
        known = self._arms | self._methods
        self._add_arms([known[key] for key in again], place)

    def _add_arms(self, arms: Sequence[Candidate] | Iterator[Candidate], place: int) -> None:
        for candidate in arms:
            if place == 0:
                self._arms[candidate.arm.key] = candidate
                self._rounds[0].append(candidate.arm.key)
            self.add([self.plan.race_trial(self.name, candidate, place)])

    def _scores(self) -> pd.DataFrame | None:
        """Scores of the race so far, seeds in rows; ``None`` while a trial of it or a reference has not ended."""
        methods = [self.plan.search_trial(self.name, arm) for arm in self._methods.values()]
        taking_part = [*self._trials, *methods]
        if not self._arms or not all(self.so_far.has_ended(planned) for planned in taking_part):
            return None
        return self.so_far.race(taking_part)


def shortlist_arms(plan: Plan) -> list[Candidate]:
    """Return the arms that are trained at once: all but retrainings and the methods of the references phase."""
    spec = plan.study.shortlist
    if spec is None:
        return []
    arms = [plan.unsearched_arm(recipe, alpha) for recipe in spec.recipes for alpha in spec.alphas]
    named = {candidate.arm.key for candidate in plan.reference_arms()} - {"equal"}
    arms += [Candidate(Arm(method), method, {}) for method in spec.methods if method not in named | {"equal"}]
    return arms + plan.plain_arms()


def method_arms(plan: Plan) -> dict[str, Candidate]:
    """Return the methods that the references phase trains, by arm."""
    arms = [arm for arm in plan.reference_arms() if arm.arm.kind not in OUTSIDE and arm.arm.key != "equal"]
    return {arm.arm.key: arm for arm in arms}


def _most_in_round(place: int) -> int:
    return MOST_SECOND if place == 1 else MOST_LATER
