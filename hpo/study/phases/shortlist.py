"""The shortlist: arms that need no search, on the search seed, and the close ones on more seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpo.compare.race import MOST, leader, survivors
from hpo.core.arm import FIXED, OUTSIDE, Arm
from hpo.core.trial import PlannedTrial
from hpo.study.phases.base import SoFar, StudyPhase
from hpo.study.plan import Candidate, Plan, short_weights

NEAR = 1.1  # weights of which none differs by more than this factor are trained once
Weights = NDArray[np.float64]


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
        return arms, arms + MOST * (spec.seeds - 1)

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
        """Add retrainings with E_t[w] once the first arms have ended, then the seeds of the race."""
        if self._runs and all(map(self.so_far.has_ended, self._trials)):
            self._add_arms(self._retrainings(), 0)
            self._runs.clear()
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

    def _retrainings(self) -> list[Candidate]:
        """Static weights at the averages of the runs, without those that lie near the weights of another arm.

        Those that an earlier launch has trained stay, whatever is near them: they have raced and may be confirmed.
        """
        fixed = [planned for planned in self._trials if Arm.parse(planned.arm).kind in FIXED]
        known = [self._average(planned.config.identity, "geometric") for planned in fixed]
        every = list(self._averaged())
        trained = {candidate.arm.key for candidate, _ in every if self._has_run(candidate, 0)}
        known += [w for candidate, w in every if candidate.arm.key in trained]
        found: list[Candidate] = []
        for candidate, w in every:
            if candidate.arm.key in trained:
                found.append(candidate)
            elif not any(is_near(w, other) for other in known):
                known.append(w)
                found.append(candidate)
        return found

    def _averaged(self) -> Iterator[tuple[Candidate, Weights]]:
        """Yield an arm for each average of each run that has one, and the average in full: the arm has it rounded."""
        for identity, run in self._runs.items():
            for average in self.plan.study.shortlist.averages if self.plan.study.shortlist else ():
                w = self._average(identity, average)
                if np.isfinite(w).all():
                    one = Arm.parse(run)
                    arm = Arm("gradnorm_static", recipe=one.recipe, average=average, parameters=one.parameters)
                    yield Candidate(arm, "static", {"weights": short_weights(self.plan.tasks, w)}), w

    def _average(self, identity: str, average: str) -> Weights:
        """Return an average of the weights of a trial that has ended, shape (T,); NaN if it has none."""
        result = self.so_far.results[identity]
        averages = result.averages.get(average, {}) if result.status.has_score else {}
        return np.array([averages.get(task, np.nan) for task in self.plan.tasks])

    def _next_round(self, scores: pd.DataFrame) -> None:
        spec = self.plan.study.shortlist
        place, known = len(self._rounds), self._arms | self._methods
        close = survivors(scores, len(known))
        again = close[:MOST] + [
            key for key in close[MOST:] if self._has_run(known[key], place)
        ]  # an earlier version raced four
        if spec is None or place >= spec.seeds or len(again) < 2:
            self._decided = True
            return
        self._rounds.append(again)
        self._add_arms([known[key] for key in again], place)

    def _has_run(self, arm: Candidate, place: int) -> bool:
        """Return whether this phase has trained an arm in an earlier launch, or one with an earlier version.

        Of a tuned study that is not known: its tune phase trains the same arms on the same seeds.
        """
        return not self.plan.is_tuned and self.so_far.has_ended(self.plan.race_trial(self.name, arm, place))

    def _add_arms(self, arms: Sequence[Candidate], place: int) -> None:
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


def is_near(w: Weights, other: Weights) -> bool:
    """Return whether no weight differs by more than the factor NEAR between two sets of weights, each with sum T.

    Such networks differ by less than the seeds of one: on the problems of docs/results.md, no two arms within this
    factor can be told apart by six seeds. NaN is near nothing.

    >>> is_near(np.array([1.0, 1.0]), np.array([1.04, 0.96])), is_near(np.array([1.0, 1.0]), np.array([0.8, 1.2]))
    (True, False)
    """
    return bool(np.abs(np.log(w / other)).max() <= np.log(NEAR))
