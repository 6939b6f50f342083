"""Decide which trial runs next, independently of the engine that runs it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

import pandas as pd

from hpo.core.trial import PlannedTrial, TrialConfig, TrialResult
from hpo.study.phases import PHASES, SoFar, StudyPhase
from hpo.study.plan import Plan
from hpo.study.tally import State
from hpo.study.trial_rows import trial_table
from hpo.training.methods import METHODS

Kind = tuple[int, int, int, bool, bool, str, str]


class Next(Enum):
    """The answer of `Schedule.next` when it has no trial to hand out."""

    WAIT = "wait"  # for a result
    FINISHED = "finished"


class Schedule:
    """Hands out trials in the order of the phases, as soon as their inputs exist, each config once.

    Args:
        plan: the study.
        results: of earlier launches, by identity.
        configs: of these results.
        runs: ``False`` runs no trials: the schedule then only reads ``results``.

    Attributes:
        phases: of the study, in order.
        results: by identity, including this launch's.
    """

    def __init__(
        self,
        plan: Plan,
        results: Mapping[str, TrialResult] | None = None,
        configs: Iterable[TrialConfig] = (),
        runs: bool = True,
    ) -> None:
        self.plan = plan
        self._so_far = SoFar(plan, results or {}, configs, runs)
        self.phases: list[StudyPhase] = [phase(self._so_far) for phase in PHASES.values()]
        self._so_far.phases = self.phases
        self.results = self._so_far.results
        self._cohorts: list[set[str]] = []  # identities of those that run
        self._stopped: list[PlannedTrial] = []  # since the last call

    def next(self) -> PlannedTrial | Next:
        """Return the next trial to run, which then counts as running."""
        cohort = self.next_cohort(1, 1)
        return cohort if isinstance(cohort, Next) else cohort[0]

    def next_cohort(self, most: int, slots: int) -> list[PlannedTrial] | Next:
        """Return the next trials that can be trained at once; they then count as running.

        Args:
            most: maximum number of trials in a cohort.
            slots: number of workers, among which the trials are divided.
        """
        self._settle()
        cohort: list[PlannedTrial] = []
        allowed = self._allowed(slots)
        while len(cohort) < most and (planned := self._take(cohort, allowed)) is not None:
            if not cohort and most > 1:
                most = min(most, self._share(planned, slots))
            cohort.append(planned)
            self._so_far.running[planned.config.identity] = planned
        if cohort:
            self._cohorts.append({planned.config.identity for planned in cohort})
            return cohort
        return Next.WAIT if self._so_far.running else Next.FINISHED

    def _allowed(self, slots: int) -> list[StudyPhase]:
        """The phases whose trials may start: with one worker left, none that comes after an urgent phase."""
        running = self._so_far.running
        self._cohorts = [cohort for cohort in self._cohorts if any(identity in running for identity in cohort)]
        urgent = [place for place, phase in enumerate(self.phases) if phase.is_urgent]
        return self.phases[: urgent[-1] + 1] if urgent and len(self._cohorts) >= slots - 1 else self.phases

    def _take(self, cohort: Sequence[PlannedTrial], allowed: Sequence[StudyPhase]) -> PlannedTrial | None:
        """Return the next trial, if it can be trained at once with those before it."""
        kind = self._kind(cohort[0]) if cohort else None
        for phase in allowed:
            planned = phase.next(None if kind is None else lambda planned: self._kind(planned) == kind)
            if planned is not None:
                return planned
        return None

    def _kind(self, planned: PlannedTrial) -> Kind:
        """Return what trials of a cohort have in common. GradNorm is separate: it needs gradients of W per task."""
        config = planned.config
        alone = "" if METHODS[config.method].stackable else config.identity
        gradnorm = config.method == "gradnorm"
        return config.seed, config.epochs, self.until(config), config.test, gradnorm, config.problem_digest, alone

    def _share(self, first: PlannedTrial, slots: int) -> int:
        """Return each worker's share of the unfinished trials of a trial's pool; 1 if its method trains alone."""
        if not METHODS[first.config.method].stackable:
            return 1
        pool = PHASES[first.phase].pool
        phases = [phase for phase in self.phases if phase.pool == pool]
        left = sum(self._so_far.tally.left(phase.name) + phase.remaining for phase in phases)
        return math.ceil(left / max(1, slots))

    def largest_cohort(self) -> int:
        """Return the maximum number of known trials still to run that could be trained at once."""
        left = [planned for phase in self.phases for planned in phase.queue if not self._so_far.has_ended(planned)]
        return max([*(phase.remaining for phase in self.phases), *Counter(map(self._kind, left)).values()])

    def sample(self) -> list[PlannedTrial]:
        """Return the last trial per phase from the largest group that can be trained at once."""
        known = [planned for phase in self.phases if phase.is_search for planned in phase.trials()]
        (kind, _), *_ = Counter(map(self._kind, known)).most_common(1)
        one_per_phase = {planned.phase: planned for planned in known if self._kind(planned) == kind}
        return list(one_per_phase.values())[::-1]

    def running(self) -> list[PlannedTrial]:
        """The trials that have been handed out and have no result."""
        return list(self._so_far.running.values())

    def begun(self, identity: str) -> None:
        """Record that a worker has started a trial."""
        if identity in self._so_far.running:
            self._so_far.tally.move(identity, State.RUNNING)

    def interrupted(self, identity: str) -> None:
        """Record that a trial's worker died; the trial waits for another."""
        self._so_far.tally.move(identity, State.WAITING)

    def finished(self, identity: str, result: TrialResult) -> None:
        """Record that a trial has ended, with any status, or paused to wait for other trials of its phase."""
        planned = self._so_far.running.pop(identity, None)
        if result.status.has_ended:
            self._so_far.record(identity, result)
        elif planned is not None:
            self._so_far.tally.move(identity, State.WAITING)
            next(phase for phase in self.phases if phase.name == planned.phase).on_paused(identity, result)
        self._settle()

    def until(self, config: TrialConfig) -> int:
        """Return the epoch at which a trial returns to the driver."""
        return min(phase.until(config) for phase in self.phases)

    def stopped(self) -> list[PlannedTrial]:
        """Return the trials that were stopped since the last call; they have a result now."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def planned(self) -> Iterator[PlannedTrial]:
        """Return every trial known so far; a config that two arms share appears under both."""
        self._settle()
        seen: set[tuple[str, str]] = set()
        for phase in self.phases:
            for planned in phase.trials():
                place = planned.arm, planned.config.identity
                if place not in seen:
                    seen.add(place)
                    yield planned

    def progress(self) -> dict[str, dict[str, int]]:
        """Return for each phase the numbers of all, done, running and failed trials (diverged trials are done)."""
        self._settle()
        told, tally = (State.DONE, State.RUNNING, State.FAILED), self._so_far.tally
        return {
            phase.name: {"total": phase.total_own, **{state.value: tally.count(phase.name, state) for state in told}}
            for phase in self.phases
        }

    @property
    def size(self) -> int:
        """The maximum number of trials of the whole study."""
        return sum(phase.size()[1] for phase in self.phases)

    @property
    def is_complete(self) -> bool:
        """True if every trial of the study has a result."""
        return all(count["done"] + count["failed"] >= count["total"] for count in self.progress().values())

    def table(self) -> pd.DataFrame:
        """Return the input of `hpo.compare.compare`: one row for each trial with a result."""
        return trial_table(self._so_far.ended(self.planned()), self.plan.scoring)

    def scored_search(self, trials: Iterable[PlannedTrial]) -> pd.DataFrame:
        """Return the trials of the search among these with their ``score``; none while a reference is missing."""
        return self._so_far.scored_search(trials)

    def _settle(self) -> None:
        for phase in self.phases:
            self._stopped += phase.settle()
