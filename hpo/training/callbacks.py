"""The callbacks that report the progress of trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hpo.core.trial import EpochReport, TrialConfig, TrialResult


class TrialCallbacks(Protocol):
    """Methods that the training loop calls."""

    def on_resumed(self, config: TrialConfig, steps: int) -> None:
        """Called when a trial continues from a checkpoint at step ``steps``."""

    def on_epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        """Called when trials have each trained an epoch; past epochs are reported again after `on_resumed`."""

    def on_ended(self, config: TrialConfig, result: TrialResult) -> None:
        """Called when a trial has its result."""


class CohortCallbacks(TrialCallbacks, Protocol):
    """Methods that `run_cohort` calls."""

    def on_alone(self, count: int, why: str) -> None:
        """Called when trials cannot be trained at once and continue in halves or one after another."""
