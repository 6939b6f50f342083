"""Events of a running study, for the MLflow writer and the progress view."""

from __future__ import annotations

from typing import Protocol

from hpo.core.trial import EpochReport, PlannedTrial, TrialResult


class Listener(Protocol):
    """Receives the events of every trial, in the driver, in order. Its exceptions are counted and not raised."""

    def trial_started(self, planned: PlannedTrial) -> None:
        """Called when a worker starts the trial, and again after a restart."""

    def trial_reported(self, planned: PlannedTrial, report: EpochReport) -> None:
        """Called after each epoch."""

    def trial_paused(self, planned: PlannedTrial) -> None:
        """Called when the trial waits for other trials; it then continues in another worker or is stopped."""

    def trial_ended(self, planned: PlannedTrial, result: TrialResult) -> None:
        """Called when the trial has a result, with any status."""

    def noticed(self, text: str) -> None:
        """Called with a message about the cluster for the user."""

    def time_passed(self) -> None:
        """Called every few seconds."""
