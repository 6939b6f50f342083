"""The members of a cohort, with their checkpoints, and the callbacks that report on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hpo.core.trial import EpochReport, TrialConfig, TrialResult
from hpo.training.checkpoints import Checkpoints


class CohortCallbacks(Protocol):
    """Who is told how the trials of a cohort go."""

    def resumed(self, config: TrialConfig, steps: int) -> None:
        """A trial goes on from a checkpoint after so many steps."""

    def epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        """Epochs have ended, of several trials at once; some again, of a trial that went on from a checkpoint."""

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        """A trial has its result."""

    def alone(self, count: int, why: str) -> None:
        """So many trials that were to be trained at once are trained one after another."""


@dataclass(eq=False)
class CohortMember:
    """Where a trial of a cohort keeps its checkpoints, and the newest of them.

    Attributes:
        config: the trial.
        checkpoints: its own; ``None`` keeps none.
        until: the epochs after which it pauses.
        state: to go on from; ``None`` begins at the first step.
    """

    config: TrialConfig
    checkpoints: Checkpoints | None
    until: int
    state: dict[str, Any] | None = None

    @property
    def steps(self) -> int:
        """How many steps the state is after."""
        return int(self.state["steps"]) if self.state else 0
