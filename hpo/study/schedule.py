"""Which trial runs next: the phases of a study, independent of what runs them."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from itertools import chain

import numpy as np
import pandas as pd

from hpo.compare import TRIAL_COLUMNS, scored_search
from hpo.core.arm import Arm
from hpo.core.trial import AVERAGES, Phase, PlannedTrial, TrialConfig, TrialResult, TrialStatus
from hpo.study.alpha_sweep import AlphaSweep
from hpo.study.plan import Plan, sweep_parameters
from hpo.training.methods import METHODS

Kind = tuple[int, int, int, bool, bool, str]


class Next(Enum):
    """What `Schedule.next` says when it has no trial to hand out."""

    WAIT = "wait"  # for a result
    FINISHED = "finished"


class Schedule:
    """Hands out trials in the order of the phases, as early as their inputs are there, each config once.

    References and static points come first; the alpha sweeps run beside what is left of them and beside the arms of
    the confirm phase that need no search; last come the arms that the search has chosen.

    Args:
        plan: the study's trials.
        results: by identity what earlier launches have finished.
        sweeps: by recipe. ``None`` runs nothing: the schedule then only reads ``results``.
    """

    def __init__(
        self, plan: Plan, results: Mapping[str, TrialResult], sweeps: Mapping[str, AlphaSweep] | None = None
    ) -> None:
        self.plan = plan
        self.results = dict(results)
        self._sweeps = dict(sweeps or {})
        self._swept: list[PlannedTrial] = []  # by recipe and parameters, whichever came first
        self._told: set[str] = set()
        self._running: dict[str, PlannedTrial] = {}
        self._begun: set[str] = set()
        self._chosen: list[PlannedTrial] | None = None
        self._search = plan.references() + plan.static() + plan.full()
        self._halving = plan.halving()
        self._stopped: list[PlannedTrial] = []  # since they were last asked for
        self._fixed = plan.confirm_fixed()
        self._queue = deque(self._search)
        self._later = deque(self._fixed)

    def adopt(self, planned: PlannedTrial) -> None:
        """Count a sweep trial of an earlier launch."""
        if planned.config.identity not in {known.config.identity for known in self._swept}:
            self._swept.append(planned)
            self._swept.sort(key=self._place)

    def next(self) -> PlannedTrial | Next:
        """The next trial to run, which then counts as running."""
        cohort = self.next_cohort(1, 1)
        return cohort if isinstance(cohort, Next) else cohort[0]

    def next_cohort(self, most: int, slots: int) -> list[PlannedTrial] | Next:
        """The next trials to run, which then count as running; such as can be trained at once.

        Args:
            most: trials in a cohort.
            slots: workers that could take one; what there is to do is shared out among them.
        """
        self._settle()
        cohort: list[PlannedTrial] = []
        while len(cohort) < most and (planned := self._take(cohort)) is not None:
            if not cohort and most > 1:
                most = min(most, self._share(planned, slots))
            cohort.append(planned)
            self._running[planned.config.identity] = planned
        if cohort:
            return cohort
        return Next.WAIT if self._running else Next.FINISHED

    def _take(self, cohort: Sequence[PlannedTrial]) -> PlannedTrial | None:
        """The next trial, if it fits those before."""
        kind = self._kind(cohort[0]) if cohort else None
        planned = self._waiting(self._queue, kind)
        if planned is None and not self._queue and (not cohort or cohort[0].phase is Phase.SWEEP):
            planned = self._ask()
        planned = planned or self._waiting(self._later, kind)
        if planned is None and self._choose():
            planned = self._waiting(self._later, kind)
        return planned

    def _kind(self, planned: PlannedTrial) -> Kind:
        """What the trials of a cohort have in common. GradNorm's apart: they alone need the tasks' gradients of W."""
        config = planned.config
        alone = "" if METHODS[config.method].stackable else config.identity
        return config.seed, config.epochs, self.until(config), config.test, config.method == "gradnorm", alone

    def _share(self, first: PlannedTrial, slots: int) -> int:
        """How many trials each worker gets of those of this one's phase that have not ended."""
        if first.phase is Phase.SWEEP:
            left = 1 + sum(sweep.remaining for sweep in self._sweeps.values())
            left += sum(planned.phase is Phase.SWEEP for planned in self._running.values())
        else:
            pool = [*self._fixed, *(self._chosen or [])] if first.phase is Phase.CONFIRM else self._search
            left = sum(not self._ended(planned) for planned in pool)
        return math.ceil(left / max(1, slots))

    def largest_cohort(self) -> int:
        """The most trials, of those that are known and still to run, that could be trained at once."""
        left = [p for p in chain(self._queue, self._later) if p.config.identity not in self.results]
        swept = sum(sweep.remaining for sweep in self._sweeps.values())
        return max([swept, *Counter(map(self._kind, left)).values()])

    def running(self) -> list[PlannedTrial]:
        """The trials that have been handed out and have no result."""
        return list(self._running.values())

    def begun(self, identity: str) -> None:
        """A worker has begun with a trial."""
        if identity in self._running:
            self._begun.add(identity)

    def interrupted(self, identity: str) -> None:
        """Its worker died; it waits for another."""
        self._begun.discard(identity)

    def finished(self, identity: str, result: TrialResult) -> None:
        """A trial reached its end, whatever its status."""
        self._running.pop(identity, None)
        self._begun.discard(identity)
        if result.status is TrialStatus.PAUSED:
            self._halving.pause(identity, result)
        else:
            self.results[identity] = result
        self._settle()
        self._settle_rung()

    def until(self, config: TrialConfig) -> int:
        """How many epochs a trial that is handed out is to have when it comes back."""
        return self._halving.until(config.identity) if config.epochs == self.plan.search_epochs else config.epochs

    def stopped(self) -> list[PlannedTrial]:
        """The trials that others have beaten since this was last asked; they have a result now."""
        stopped, self._stopped = self._stopped, []
        return stopped

    def planned(self) -> Iterator[PlannedTrial]:
        """Every trial known so far, finished or not; a config that two arms share comes under both."""
        self._choose()
        seen: set[tuple[str, str]] = set()
        for planned in chain(self._search, self._swept, self._fixed, self._chosen or []):
            place = planned.arm, planned.config.identity
            if place not in seen:
                seen.add(place)
                yield planned

    @property
    def asking(self) -> bool:
        """Whether a sweep has trials that it has not asked for yet."""
        return any(sweep.remaining for sweep in self._sweeps.values())

    def progress(self) -> dict[Phase, dict[str, int]]:
        """For each phase the number of trials total, done, running and failed (diverged trials are done)."""
        counts = {phase: {"total": 0, "done": 0, "running": 0, "failed": 0} for phase in Phase}
        seen: set[str] = set()
        for planned in self.planned():
            identity, count = planned.config.identity, counts[planned.phase]
            if identity in seen:
                continue
            seen.add(identity)
            count["total"] += 1
            result = self.results.get(identity)
            count["running"] += identity in self._begun
            count["done"] += result is not None and result.status is not TrialStatus.FAILED
            count["failed"] += result is not None and result.status is TrialStatus.FAILED
        size = self.plan.size()
        if self._sweeps:  # a sweep that asks for one alpha twice runs it once, and so has fewer trials than planned
            counts[Phase.SWEEP]["total"] += sum(sweep.remaining for sweep in self._sweeps.values())
        else:
            counts[Phase.SWEEP]["total"] = max(counts[Phase.SWEEP]["total"], size[Phase.SWEEP][1])
        if self._chosen is None:
            counts[Phase.CONFIRM]["total"] = size[Phase.CONFIRM][1]
        return counts

    def table(self) -> pd.DataFrame:
        """What `hpo.compare.compare` reads: one row for each trial with a result."""
        return self._table(self.planned())

    def _place(self, planned: PlannedTrial) -> tuple[int, list[tuple[str, float]]]:
        recipe = planned.config.settings["recipe"]
        return self.plan.study.gradnorm.recipes.index(recipe), sorted(sweep_parameters(planned.config).items())

    def _waiting(self, queue: deque[PlannedTrial], kind: Kind | None = None) -> PlannedTrial | None:
        """The first in a queue that is still to run and of a kind; ``None`` takes any."""
        while queue and self._is_out(queue[0]):
            queue.popleft()
        for place, planned in enumerate(queue):
            if not self._is_out(planned) and (kind is None or self._kind(planned) == kind):
                del queue[place]
                return planned
        return None

    def _is_out(self, planned: PlannedTrial) -> bool:
        """Whether a trial has been handed out or has ended."""
        return planned.config.identity in self.results or planned.config.identity in self._running

    def _ask(self) -> PlannedTrial | None:
        """A trial of a sweep that knows enough of those before."""
        for recipe, sweep in self._sweeps.items():
            while (parameters := sweep.ask()) is not None:
                planned = self.plan.sweep(recipe, parameters)
                self.adopt(planned)
                if planned.config.identity not in self.results and planned.config.identity not in self._running:
                    return planned
                self._told.discard(planned.config.identity)
                self._settle()
        return None

    def _settle(self) -> None:
        """Tell the sweeps the scores that can be known: those whose single-task references have ended."""
        open_sweep = [p for p in self._swept if self._ended(p) and p.config.identity not in self._told]
        references = [planned for planned in self._search if planned.phase is Phase.REFERENCES]
        if not open_sweep or not all(self._ended(planned) for planned in references):
            return
        search = self._scored()
        for planned in open_sweep:
            identity = planned.config.identity
            score = float(search.loc[search["identity"] == identity, "score"].iloc[0])
            self._told.add(identity)
            if sweep := self._sweeps.get(str(planned.config.settings["recipe"])):
                sweep.tell(identity, score if np.isfinite(score) else None)

    def _settle_rung(self) -> None:
        """Once all static points that are left have come to their rung, let the best go on and stop the others."""
        at_rung = self._halving.at_rung(self.results)
        references = [planned for planned in self._search if planned.phase is Phase.REFERENCES]
        if not at_rung or not all(self._ended(planned) for planned in references):
            return
        planned = {p.config.identity: p for p in self._search if p.config.identity in at_rung}
        rows = [_row(p, replace(at_rung[i], status=TrialStatus.STOPPED), self.plan.tasks) for i, p in planned.items()]
        rows += [_row(p, self.results[p.config.identity], self.plan.tasks) for p in references]
        search = scored_search(pd.DataFrame(rows, columns=_columns(self.plan.tasks)), self.plan.directions)
        scores = dict(zip(search["identity"], search["score"].astype(float), strict=True))
        on, off = self._halving.decide({identity: scores[identity] for identity in at_rung})
        self._queue.extendleft(planned[identity] for identity in reversed(on))
        for identity in off:
            self.results[identity] = replace(at_rung[identity], status=TrialStatus.STOPPED)
            self._stopped.append(planned[identity])

    def _choose(self) -> bool:
        """Plan the arms that depend on the search, once the search has ended."""
        if self._chosen is not None:
            return False
        if self.asking or not all(self._ended(planned) for planned in chain(self._search, self._swept)):
            return False
        self._chosen = self.plan.confirm_chosen(self._scored())
        self._later.extend(self._chosen)
        return True

    def _table(self, trials: Iterable[PlannedTrial]) -> pd.DataFrame:
        rows = [_row(p, self.results[p.config.identity], self.plan.tasks) for p in trials if self._ended(p)]
        return pd.DataFrame(rows, columns=_columns(self.plan.tasks))

    def _ended(self, planned: PlannedTrial) -> bool:
        return planned.config.identity in self.results

    def _scored(self) -> pd.DataFrame:
        table = self._table([*self._search, *self._swept])
        return scored_search(table, self.plan.directions)


def _columns(tasks: list[str]) -> list[str]:
    groups = ("train", "val", "test", *AVERAGES)
    return [*TRIAL_COLUMNS, "together", "learning_rate", *(f"{group}/{task}" for group in groups for task in tasks)]


def _row(planned: PlannedTrial, result: TrialResult, tasks: list[str]) -> dict[str, object]:
    config = planned.config
    parameters = sweep_parameters(config)
    arm = Arm.parse(planned.arm)
    groups = {
        "train": result.train,
        "val": result.validation,
        "test": result.test,
        **{name: result.averages.get(name, {}) for name in AVERAGES},
    }
    return {
        "identity": config.identity,
        "arm": planned.arm,
        "phase": planned.phase,
        "kind": arm.kind,
        "recipe": arm.recipe,
        "alpha": parameters.get("alpha", np.nan),
        "learning_rate": parameters.get("learning_rate", np.nan),
        "seed": config.seed,
        "status": result.status,
        "steps": result.steps,
        "seconds": result.seconds,
        "together": result.together,
        "alarms": "\n".join(result.alarms),
        **{f"{group}/{task}": values.get(task, np.nan) for group, values in groups.items() for task in tasks},
    }
