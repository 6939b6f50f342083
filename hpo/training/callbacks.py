"""The callbacks that report how trials go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hpo.core.trial import EpochReport, TrialConfig, TrialResult


class TrialCallbacks(Protocol):
    """Methods that the training loop calls."""

    def on_resumed(self, config: TrialConfig, steps: int) -> None:
        """A trial continues from a checkpoint after so many steps."""

    def on_epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        """Trials have each trained an epoch; past epochs are reported again after `on_resumed`."""

    def on_ended(self, config: TrialConfig, result: TrialResult) -> None:
        """A trial has its result."""


class CohortCallbacks(TrialCallbacks, Protocol):
    """Methods that `run_cohort` calls."""

    def on_alone(self, count: int, why: str) -> None:
        """So many trials that were to be trained at once are trained otherwise: in halves, or one after another."""
