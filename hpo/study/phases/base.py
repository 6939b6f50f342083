"""What a phase of a study is: the one interface that the schedule, `gradsweep plan` and the progress view know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar

import pandas as pd

from hpo.compare import scored_search
from hpo.core.trial import PlannedTrial, TrialConfig, TrialResult
from hpo.study.plan import Plan
from hpo.study.trial_rows import trial_table

Fits = Callable[[PlannedTrial], bool]
Pair = tuple[PlannedTrial, TrialResult]


class SoFar:
    """How far a study is: what the phases read and the schedule keeps.

    Attributes:
        plan: the study's.
        results: by identity, of the trials that have ended.
        configs: of the results of earlier launches.
        runs: whether trials are to run; else the phases only say what there is.
        running: by identity, the trials that have been handed out and have no result.
        phases: all of the study, in order.
    """

    def __init__(
        self, plan: Plan, results: Mapping[str, TrialResult], configs: Iterable[TrialConfig], runs: bool
    ) -> None:
        self.plan, self.results, self.configs, self.runs = plan, dict(results), list(configs), runs
        self.running: dict[str, PlannedTrial] = {}
        self.phases: list[StudyPhase] = []

    def has_ended(self, planned: PlannedTrial) -> bool:
        """Whether a trial has a result."""
        return planned.config.identity in self.results

    def is_out(self, planned: PlannedTrial) -> bool:
        """Whether a trial has been handed out or has ended."""
        return planned.config.identity in self.running or self.has_ended(planned)

    def ended(self, trials: Iterable[PlannedTrial]) -> list[Pair]:
        """The trials that have a result, with it."""
        return [(planned, self.results[planned.config.identity]) for planned in trials if self.has_ended(planned)]

    def scores(self, trials: Sequence[Pair]) -> dict[str, float] | None:
        """The validation score of each trial, by identity; ``None`` while a reference that scores need is missing."""
        references = [planned for phase in self.phases if phase.is_reference for planned in phase.trials()]
        if not all(self.has_ended(planned) for planned in references):
            return None
        search = self._scored([*self.ended(references), *trials])
        return dict(zip(search["identity"], search["score"].astype(float), strict=True))

    def search(self) -> pd.DataFrame | None:
        """The scored trials of the search seed, best first; ``None`` while one is to come."""
        phases = [phase for phase in self.phases if phase.is_search]
        trials = [planned for phase in phases for planned in phase.trials()]
        if any(phase.remaining for phase in phases) or not all(self.has_ended(planned) for planned in trials):
            return None
        return self._scored(self.ended(trials))

    def _scored(self, trials: Sequence[Pair]) -> pd.DataFrame:
        return scored_search(trial_table(trials, self.plan.tasks), self.plan.directions)


class StudyPhase(ABC):
    """A stage of a study. Trials that are in `queue` wait to be handed out, in order.

    Args:
        so_far: of the study.
    """

    name: ClassVar[str]
    is_search: ClassVar[bool] = True  # on the search seed, reads no test split
    is_reference: ClassVar[bool] = False  # its trials are what the others' scores are relative to
    pool: ClassVar[str]  # phases of one pool are shared out among the workers together

    def __init__(self, so_far: SoFar) -> None:
        self.so_far, self.plan = so_far, so_far.plan
        self.queue: deque[PlannedTrial] = deque()

    @abstractmethod
    def trials(self) -> Sequence[PlannedTrial]:
        """Those known so far, handed out, ended or neither."""

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Arms and trials of the whole phase; at most, where they depend on results."""

    @abstractmethod
    def describe(self) -> str:
        """What is trained, for a line of `gradsweep plan`."""

    @property
    def remaining(self) -> int:
        """Trials that will come and are not known."""
        return 0

    @property
    def total(self) -> int:
        """Trials to count, of which the phase knows some only later."""
        return len({planned.config.identity for planned in self.trials()}) + self.remaining

    @property
    def epochs(self) -> int:
        """Epochs of a trial."""
        return self.plan.search_epochs if self.is_search else self.plan.epochs

    @property
    def most_epochs(self) -> int:
        """Epochs of all its trials together, at most."""
        return self.size()[1] * self.epochs

    def next(self, fits: Fits | None = None) -> PlannedTrial | None:
        """Take the first trial that waits and fits; ``None`` where there is none. Without ``fits`` any does."""
        while self.queue and self.so_far.is_out(self.queue[0]):
            self.queue.popleft()
        for place, planned in enumerate(self.queue):
            if not self.so_far.is_out(planned) and (fits is None or fits(planned)):
                del self.queue[place]
                return planned
        return None

    def on_paused(self, identity: str, result: TrialResult) -> None:
        """Take back a trial that waits for the others of its phase."""
        raise ValueError(f"trial {identity} of the {self.name} phase came back {result.status}")

    def settle(self) -> list[PlannedTrial]:
        """Take note of the results so far; the trials that they have stopped."""
        return []

    def until(self, config: TrialConfig) -> int:
        """How many epochs a trial that is handed out is to have when it comes back."""
        return config.epochs
