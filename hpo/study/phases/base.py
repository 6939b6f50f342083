"""The interface of a study's phase, used by the schedule, `gradsweep plan` and the progress view."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import pandas as pd

from hpo.compare import reference_arms, scored_search, scored_validation
from hpo.core.arm import Arm
from hpo.core.trial import PlannedTrial, TrialConfig, TrialResult, TrialStatus
from hpo.study.argument_sets import OWN
from hpo.study.plan import Candidate, Plan
from hpo.study.tally import State, Tally
from hpo.study.trial_rows import trial_table

Fits = Callable[[PlannedTrial], bool]
Pair = tuple[PlannedTrial, TrialResult]


class SoFar:
    """The progress of a study, kept by the schedule and read by the phases.

    Attributes:
        plan: the study's.
        results: of the trials that have ended, by identity; `record` adds to them.
        tally: counts the trials of each phase.
        configs: of the results of earlier launches.
        runs: whether trials will run; if false, the phases only describe what exists.
        running: the trials that have been handed out and have no result, by identity.
        phases: all of the study, in order.
    """

    def __init__(
        self, plan: Plan, results: Mapping[str, TrialResult], configs: Iterable[TrialConfig], runs: bool
    ) -> None:
        self.plan, self.configs, self.runs = plan, list(configs), runs
        self.results: dict[str, TrialResult] = {}
        self.tally = Tally()
        self.running: dict[str, PlannedTrial] = {}
        self.phases: list[StudyPhase] = []
        self._chosen: list[Candidate] | None = None
        for identity, result in results.items():
            self.record(identity, result)

    def record(self, identity: str, result: TrialResult) -> None:
        """Add the result of a trial that has ended."""
        self.results[identity] = result
        self.tally.move(identity, State.FAILED if result.status is TrialStatus.FAILED else State.DONE)

    def has_ended(self, planned: PlannedTrial) -> bool:
        """Return whether a trial has a result."""
        return planned.config.identity in self.results

    def is_out(self, planned: PlannedTrial) -> bool:
        """Return whether a trial has been handed out or has ended."""
        return planned.config.identity in self.running or self.has_ended(planned)

    def ended(self, trials: Iterable[PlannedTrial]) -> list[Pair]:
        """The trials that have a result, with their results."""
        return [(planned, self.results[planned.config.identity]) for planned in trials if self.has_ended(planned)]

    def scores(self, trials: Sequence[Pair]) -> dict[str, float] | None:
        """Return the number that the search minimises, by identity; ``None`` while a reference is missing.

        It is the validation score, larger where the study has limits and the trial is beyond them.
        """
        search = self._scored(trials)
        if search is None:
            return None
        return dict(zip(search["identity"], search["objective"].astype(float), strict=True))

    def _scored(self, trials: Sequence[Pair]) -> pd.DataFrame | None:
        """Return trials and the references with their validation scores; ``None`` while a reference is missing."""
        references = [planned for phase in self.phases if phase.is_reference for planned in phase.trials()]
        if not all(self.has_ended(planned) for planned in references):
            return None
        table = trial_table([*self.ended(references), *trials], self.plan.scoring)
        return scored_validation(table, self.plan.scoring)

    def scored_search(self, trials: Iterable[PlannedTrial]) -> pd.DataFrame:
        """Return the scored ones of these trials that the search compares; none while a reference is missing.

        They are rows of `hpo.compare.Comparison.search`, to within rounding, unless a later result changes it.
        """
        compared = {phase.name for phase in self.phases if phase.is_search and phase.chooses}
        own = [p for p in trials if p.phase in compared and p.config.seed == self.plan.study.seed]
        search = self._scored(self.ended(own)) if own else None
        if search is None:
            return pd.DataFrame(columns=["identity", "score", "epoch"])
        return search[search["identity"].isin({planned.config.identity for planned in own})]

    def race(self, trials: Iterable[PlannedTrial]) -> pd.DataFrame | None:
        """Return the validation scores of the trials that have ended, seeds in rows and arms in columns.

        NaN if a trial has no score; ``None`` while a reference is missing.
        """
        pairs = self.ended(trials)
        scores = self.scores(pairs)
        if scores is None:
            return None
        rows = [(p.config.seed, p.arm, scores.get(p.config.identity, np.nan)) for p, _ in pairs]
        table = pd.DataFrame(rows, columns=["seed", "arm", "score"]).drop_duplicates(["seed", "arm"])
        return table.pivot(index="seed", columns="arm", values="score")[list(dict.fromkeys(table["arm"]))]

    def chosen(self) -> list[Candidate] | None:
        """Return the arms that the phases choose; ``None`` while the search has not ended."""
        if self._chosen is None and (search := self.search()) is not None:
            self._chosen = chosen_arms(self.phases, search)
        return self._chosen

    def best_references(self) -> dict[str, str]:
        """The label of the best set of arguments of each single-task network, by arm."""
        references = [planned for phase in self.phases if phase.is_reference for planned in phase.trials()]
        table = trial_table(self.ended(references), self.plan.scoring)
        arms = [Arm.parse(arm) for arm in reference_arms(table, self.plan.scoring).values()]
        return {arm.base.key: arm.arguments for arm in arms}

    def search(self) -> pd.DataFrame | None:
        """Return the scored trials of the search seed, best first; ``None`` while one is missing."""
        phases = [phase for phase in self.phases if phase.is_search and phase.chooses]
        if not all(phase.is_over for phase in phases):
            return None
        trials = [planned for phase in phases for planned in phase.trials()]
        return scored_search(trial_table(self.ended(trials), self.plan.scoring), self.plan.scoring)


def chosen_arms(phases: Iterable[StudyPhase], search: pd.DataFrame) -> list[Candidate]:
    """Return the arms that the phases choose, each once and with the problem's own arguments.

    Of two arms that are one by other names, that of the later phase is kept.

    Args:
        phases: all of the study.
        search: the scored trials of the search seed, best first.
    """
    arms: list[Candidate] = []
    for phase in phases:
        chosen = [candidate.with_arguments(OWN) for candidate in phase.chosen(search)]
        arms = [arm for arm in arms if not any(arm.trains_like(other) for other in chosen)] + chosen
    return arms


class StudyPhase(ABC):
    """A stage of a study. It makes its trials known with `add` once their inputs exist.

    Trials that are in `queue` wait to be handed out, in order.

    Args:
        so_far: of the study.
    """

    name: ClassVar[str]
    is_search: ClassVar[bool] = True  # on the search seed, reads no test split
    chooses: ClassVar[bool] = True  # of a search: its trials decide which arms the confirm phase trains
    is_reference: ClassVar[bool] = False  # scores of other trials are relative to its trials
    pool: ClassVar[str]  # phases of one pool share the workers

    def __init__(self, so_far: SoFar) -> None:
        self.so_far, self.plan = so_far, so_far.plan
        self.queue: deque[PlannedTrial] = deque()
        self._trials: list[PlannedTrial] = []
        self._identities: set[str] = set()
        so_far.tally.add_phase(self.name)

    def add(self, trials: Iterable[PlannedTrial]) -> None:
        """Make trials known, and hand them out after those that wait already."""
        for planned in trials:
            self._know(planned)
            self.queue.append(planned)

    def _know(self, planned: PlannedTrial) -> None:
        self._trials.append(planned)
        self._identities.add(planned.config.identity)
        self.so_far.tally.add(self.name, planned.config.identity)

    def trials(self) -> Sequence[PlannedTrial]:
        """All trials known so far, also those that have been handed out or have ended."""
        return self._trials

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Return the numbers of arms and trials of the whole phase; the maximum, where they depend on results."""

    @abstractmethod
    def describe(self) -> str:
        """Return a description of the trials, for a line of `gradsweep plan`."""

    @property
    def remaining(self) -> int:
        """The number of trials that are not known yet."""
        return 0

    @property
    def is_urgent(self) -> bool:
        """Return whether further trials that should start as soon as they can wait for its running ones."""
        return False

    @property
    def total(self) -> int:
        """The number of all trials, including those that are not known yet."""
        return len(self._identities) + self.remaining

    @property
    def total_own(self) -> int:
        """The same without the known trials that count for an earlier phase, which has them too."""
        return self.total - len(self._identities) + self.so_far.tally.count(self.name)

    @property
    def is_over(self) -> bool:
        """Return whether all its trials have ended; those that an earlier phase has too count for that phase."""
        return not self.remaining and not self.so_far.tally.left(self.name)

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return self.plan.search_epochs if self.is_search else self.plan.epochs

    @property
    def most_epochs(self) -> int:
        """Epochs of all its trials together, at most."""
        return self.size()[1] * self.epochs

    def chosen(self, search: pd.DataFrame) -> list[Candidate]:  # noqa: ARG002 - for phases that do
        """Return the arms that the confirm phase trains because of this phase, once all search trials have ended.

        Args:
            search: the scored trials of the search seed, best first (`hpo.compare.Comparison.search`).
        """
        return []

    def versions(self, candidate: Candidate) -> list[Candidate] | None:
        """Return an arm as the confirm phase trains it, with one or more sets of arguments.

        ``None`` while this phase has not decided.
        """
        return [candidate]

    def provisional(self) -> list[Candidate]:
        """Return the arms that this phase has found best by itself, best first; none while it has not decided."""
        return []

    @property
    def most_chosen(self) -> int:
        """The maximum number of arms in `chosen`."""
        return 0

    def next(self, fits: Fits | None = None) -> PlannedTrial | None:
        """Remove and return the first waiting trial that ``fits`` accepts; ``None`` if there is none."""
        while self.queue and self.so_far.is_out(self.queue[0]):
            self.queue.popleft()
        for place, planned in enumerate(self.queue):
            if not self.so_far.is_out(planned) and (fits is None or fits(planned)):
                del self.queue[place]
                return planned
        return None

    def on_paused(self, identity: str, result: TrialResult) -> None:
        """Take back a paused trial, which waits for other trials of its phase."""
        raise ValueError(f"trial {identity} of the {self.name} phase came back {result.status}")

    def settle(self) -> list[PlannedTrial]:
        """Process the results so far; return the trials that are stopped because of them."""
        return []

    def until(self, config: TrialConfig) -> int:
        """Return the epoch at which a trial returns to the driver."""
        return config.epochs
