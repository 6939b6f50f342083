"""A trial in the training loop, with its checkpoints and its recorder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hpo.core.trial import TrialConfig, TrialStatus
from hpo.problems.base import Task
from hpo.training.checkpoints import Checkpoints
from hpo.training.recorder import Diverged, TrialRecorder

Found = TypeVar("Found")


@dataclass(eq=False)
class Member:
    """One of the trials that are trained at once, or the only one.

    Attributes:
        config: the trial.
        checkpoints: its own; ``None`` keeps none.
        until: the epochs after which it pauses.
        state: the checkpoint to continue from, until it is loaded; ``None`` starts at the first step.
        is_refused: whether its method cannot train with the losses of the first step.
        log: its recorder, set once the trial has started.
    """

    config: TrialConfig
    checkpoints: Checkpoints | None
    until: int
    state: dict[str, Any] | None = None
    is_refused: bool = False
    log: TrialRecorder = field(init=False)

    @property
    def steps(self) -> int:
        """The number of steps before `state`."""
        return int(self.state["steps"]) if self.state else 0

    def latest(self) -> dict[str, Any] | None:
        """Return its newest checkpoint, ``None`` without one."""
        return None if self.checkpoints is None else self.checkpoints.latest()

    def begin(self, tasks: Sequence[Task], together: int) -> None:
        """Start at the first step, as one of ``together`` trials that are trained at once."""
        self.log = TrialRecorder(self.config, tasks)
        self.log.result.together = together

    def told(self, tell: Callable[[TrialRecorder], Found]) -> Found | None:
        """Call the recorder and return its answer; ``None`` if the trial has diverged."""
        try:
            return tell(self.log)
        except Diverged as error:
            self.log.result.status, self.log.result.error = TrialStatus.DIVERGED, str(error)
            return None

    @property
    def has_diverged(self) -> bool:
        """True if a loss or a metric was not finite."""
        return self.log.result.status is TrialStatus.DIVERGED
