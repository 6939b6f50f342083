"""Who wants to know how a study is going: the MLflow writer and the progress view."""

from __future__ import annotations

from typing import Protocol

from hpo.core.trial import EpochReport, PlannedTrial, TrialResult


class Listener(Protocol):
    """Told of every trial, in the driver, in order. What it raises is counted and does not reach the cluster."""

    def trial_started(self, planned: PlannedTrial) -> None:
        """A worker has begun with it; again if it had to begin again."""

    def trial_reported(self, planned: PlannedTrial, report: EpochReport) -> None:
        """An epoch is over."""

    def trial_paused(self, planned: PlannedTrial) -> None:
        """It waits for others, and then goes on with another worker or is stopped."""

    def trial_ended(self, planned: PlannedTrial, result: TrialResult) -> None:
        """It has its result, whatever its status."""

    def noticed(self, text: str) -> None:
        """Something of the cluster that the user may want to know."""

    def time_passed(self) -> None:
        """A few seconds are over, whatever has happened in them."""
