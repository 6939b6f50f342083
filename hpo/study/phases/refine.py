"""The refinement: fixed weights near the best ones so far, proposed by Bayesian optimisation in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd

from hpo.compare.race import leader, survivors
from hpo.core.arm import FIXED, REFINED, Arm
from hpo.core.errors import StudyError
from hpo.core.text import one_line
from hpo.core.trial import PlannedTrial
from hpo.study.phases.base import Pair, SoFar, StudyPhase
from hpo.study.plan import Candidate, Plan, short_weights
from hpo.study.spec import RefineSpec
from search_spaces import SAMPLERS, refined
from search_spaces.checks import Array

BATCH = 4  # proposals between two looks at the scores, however many workers there are
RACED = 3  # of its best points, beside the centre, that are trained on a second seed
DUEL = (3, 4)  # places of the race on which the leader alone meets the centre


def proposals(
    spec: RefineSpec, centre: Sequence[float], known: Sequence[tuple[Sequence[float], float]], count: int, seed: int
) -> Array:
    """Return `count` proposals; a sampler of the user's may raise anything.

    Raises:
        StudyError: it did.
    """
    try:
        return refined(centre, known, count, spec.sampler, seed, span=spec.span)
    except Exception as error:
        if spec.sampler in SAMPLERS:
            raise
        raise StudyError(f"refine.sampler: {spec.sampler} cannot propose weights: {one_line(error)}") from error


def check_sampler(plan: Plan) -> None:
    """Ask a sampler of the user's for a proposal, before anything runs.

    Raises:
        StudyError: it makes none.
    """
    spec, equal = plan.study.refine, [1.0] * len(plan.tasks)
    if spec is not None and spec.sampler not in SAMPLERS and len(equal) > 1:
        proposals(spec, equal, [(equal, 0.0)], 1, plan.study.seed)


class Refine(StudyPhase):
    """Static weights around the best fixed weights of the phases before it.

    A batch of proposals depends on the scores of all batches before it and on nothing else, so the proposals are the
    same on any number of workers and after any kill. Two batches in a row without a better score end the search. Then
    the best points race against the centre on seeds of the shortlist's race. A point that leads after two of these
    meets the centre on two more: the best of many noisy scores is often worse than it looks
    (`python -m benchmarks.stored_surfaces`).
    """

    name: ClassVar[str] = "refine"
    pool: ClassVar[str] = "search"

    def __init__(self, so_far: SoFar) -> None:
        super().__init__(so_far)
        self._arms: dict[str, Candidate] = {}
        self._batches: list[list[PlannedTrial]] = []
        self._centre: Candidate | None = None
        self._rounds = 0  # of the race
        self._done = self.plan.study.refine is None

    def size(self) -> tuple[int, int]:
        """See `StudyPhase`."""
        spec = self.plan.study.refine
        return (spec.trials, spec.trials + 2 * (RACED + 1) + 2 * len(DUEL)) if spec else (0, 0)

    def describe(self) -> str:
        """See `StudyPhase`."""
        spec = self.plan.study.refine
        if spec is None:
            return "off"
        return f"static weights within a factor of {spec.span:g} of the best so far, sampler {spec.sampler}"

    @property
    def remaining(self) -> int:
        """See `StudyPhase`."""
        return 0 if self._done or not self.so_far.runs else max(1, self.size()[1] - len(self._trials))

    def settle(self) -> list[PlannedTrial]:
        """Propose the next batch once all trials before it have ended, and race at the end."""
        while not self._done and self._all_ended():
            pairs = self._known()
            scores = self.so_far.scores(pairs)
            if scores is None:
                self._done = all(self.so_far.has_ended(p) for p in self._references())
                break
            self._step(pairs, scores)
        return []

    def chosen(self, search: pd.DataFrame) -> list[Candidate]:  # noqa: ARG002 - it has scores of more seeds
        """The winner of its race. See `StudyPhase`."""
        best = self._winner() if self._batches else ""
        return [self._arms[best]] if best in self._arms else []

    @property
    def most_chosen(self) -> int:
        """See `StudyPhase`."""
        return 1 if self.plan.study.refine else 0

    def _before(self) -> list[StudyPhase]:
        phases = self.so_far.phases
        return phases[: phases.index(self)]

    def _references(self) -> list[PlannedTrial]:
        return [planned for phase in self._before() if phase.is_reference for planned in phase.trials()]

    def _all_ended(self) -> bool:
        """Return whether every trial that a proposal depends on has ended."""
        before = [phase for phase in self._before() if phase.is_search]
        return all(phase.is_over for phase in before) and not self.so_far.tally.left(self.name)

    def _known(self) -> list[Pair]:
        """The trials with fixed weights on the search seed, with their results."""
        trials = [planned for phase in [*self._before(), self] for planned in phase.trials()]
        fixed = {
            planned.config.identity: planned
            for planned in trials
            if Arm.parse(planned.arm).kind in FIXED and planned.config.seed == self.plan.study.seed
        }
        return [pair for pair in self.so_far.ended(fixed.values()) if pair[1].status.has_score]

    def _step(self, pairs: list[Pair], scores: dict[str, float]) -> None:
        finite = [(p, result) for p, result in pairs if np.isfinite(scores[p.config.identity])]
        if not finite:
            self._done = True
            return
        if self._centre is None:
            self._centre = self._best_so_far(finite, scores)
        if self._searches(scores):
            alike = self._centre.arm.arguments
            self._propose([pair for pair in finite if Arm.parse(pair[0].arm).arguments == alike], scores)
        else:
            self._next_round()

    def _best_so_far(self, pairs: list[Pair], scores: dict[str, float]) -> Candidate:
        """The arm that the phases before choose; else the best on the search seed."""
        picked = [arm for phase in self._before() for arm in phase.provisional() if arm.arm.kind in FIXED]
        if picked and not self.plan.is_tuned:  # else another set of arguments may be better
            return picked[0]
        planned, _ = min(pairs, key=lambda pair: scores[pair[0].config.identity])
        return Candidate(Arm.parse(planned.arm), planned.config.method, dict(planned.config.settings))

    def _searches(self, scores: dict[str, float]) -> bool:
        """Return whether another batch may find better weights."""
        spec = self.plan.study.refine
        assert spec is not None
        proposed = sum(len(batch) for batch in self._batches)
        if self._rounds or proposed >= spec.trials:
            return False
        best = [
            min((scores.get(p.config.identity, np.inf) for p in batch), default=np.inf) for batch in self._batches
        ]
        own = {planned.config.identity for planned in self._trials}
        start = min((score for identity, score in scores.items() if identity not in own), default=np.inf)
        return len(best) < 3 or min(best[-2:]) < min([start, *best[:-2]])

    def _propose(self, pairs: list[Pair], scores: dict[str, float]) -> None:
        spec, tasks = self.plan.study.refine, self.plan.tasks
        assert spec is not None
        assert self._centre is not None
        known = [([result.averages["geometric"][t] for t in tasks], scores[p.config.identity]) for p, result in pairs]
        proposed = sum(len(batch) for batch in self._batches)
        count = min(BATCH, spec.trials - proposed)
        batch = []
        for number, w in enumerate(self._proposals(spec, known, count), proposed + 1):
            arm = Arm(REFINED, number=number, arguments=self._centre.arm.arguments)
            candidate = Candidate(arm, "static", {"weights": short_weights(tasks, w)})
            self._arms[candidate.arm.key] = candidate
            batch.append(self.plan.search_trial(self.name, candidate))
        self._batches.append(batch)
        self.add(batch)

    def _proposals(self, spec: RefineSpec, known: Sequence[tuple[list[float], float]], count: int) -> Array:
        """Return `count` proposals.

        Raises:
            StudyError: see `proposals`.
        """
        return proposals(spec, self._centre_weights(), known, count, self.plan.study.seed + len(self._batches))

    def _centre_weights(self) -> list[float]:
        assert self._centre is not None
        w = self._centre.settings.get("weights")
        if w is None:  # first-step or equal weights, which are known from their run
            planned = self.plan.search_trial(self.name, self._centre)
            w = self.so_far.results[planned.config.identity].averages["geometric"]
        return [w[task] for task in self.plan.tasks]

    def _next_round(self) -> None:
        """Train the close ones of its best points and the centre on another seed; at last, the leader on two more."""
        scores = self._race()
        self._rounds += 1
        places = [self._rounds]
        if self._rounds == 1:
            own = scores[[arm for arm in scores if arm in self._arms]].iloc[0].sort_values(kind="stable")
            again = [str(arm) for arm in own.index[:RACED]]
        elif self._rounds == 2:
            again = [arm for arm in survivors(scores) if arm in self._arms]
        else:
            again, places = [arm for arm in (self._winner(),) if arm in self._arms], list(DUEL)
        if self._rounds > DUEL[0] or not again:
            self._done = True
            return
        assert self._centre is not None
        for place in places:
            rivals = [*(self._arms[arm] for arm in again), self._centre]
            self.add(self.plan.race_trial(self.name, candidate, place) for candidate in rivals)

    def _winner(self) -> str:
        """The best arm of the race without the search seed, whose scores flatter points that were chosen by them."""
        return leader(self._race().drop(index=self.plan.study.seed, errors="ignore"))

    def _race(self) -> pd.DataFrame:
        """Scores of its points and the centre, seeds in rows."""
        assert self._centre is not None
        scores = self.so_far.race([self.plan.search_trial(self.name, self._centre), *self._trials])
        assert scores is not None  # points are proposed once the references have ended
        return scores
