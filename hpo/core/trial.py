"""The config of a trial and what the trial reports: plain data. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from functools import cached_property
from typing import Any

IDENTITY_VERSION = 2  # raise when the same config would train differently than before

# name -> arguments of Balancer.mean_weights: the averages E_t[w] that every trial reports
AVERAGES: dict[str, dict[str, Any]] = {
    "arithmetic": {"kind": "arithmetic", "start": 0.0},
    "geometric": {"kind": "geometric", "start": 0.0},
    "tail": {"kind": "arithmetic", "start": 0.5},
    "geometric_tail": {"kind": "geometric", "start": 0.5},
}


class TrialStatus(StrEnum):
    """The state in which a trial ended, or that it is paused."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # a loss or a metric was not finite
    FAILED = "failed"
    REFUSED = "refused"  # its method cannot train with losses below 0, which this problem has
    STOPPED = "stopped"  # ended before its last epoch because other trials did better
    PAUSED = "paused"  # waits for the other trials of its search, then continues or is stopped

    @property
    def has_ended(self) -> bool:
        """True if it has ended in this launch: it is not paused."""
        return self is not TrialStatus.PAUSED

    @property
    def has_score(self) -> bool:
        """True if its metrics can be compared; a stopped trial has the metrics of its last epoch."""
        return self in (TrialStatus.FINISHED, TrialStatus.STOPPED)

    @property
    def is_final(self) -> bool:
        """True if it never runs again; a trial that failed or was stopped may."""
        return self in (TrialStatus.FINISHED, TrialStatus.DIVERGED, TrialStatus.REFUSED)


@dataclass(frozen=True)
class TrialConfig:
    """Exactly the values that determine how a trial trains; all of them JSON.

    Args:
        problem: name of the problem.
        arguments: of the problem.
        data_hash: `Problem.data_hash`, so that a trial on other data has another identity.
        method: a key of `hpo.training.methods.METHODS`.
        settings: the method's settings.
        seed: initial network, batch order, dropout.
        epochs: passes over the training data.
        test: whether the test split is read; only confirm trials read it.
        select: the epoch whose metrics count: ``last``, or ``best`` on validation.
        workers: processes that train it together, among which its batches are divided.
    """

    problem: str
    arguments: Mapping[str, Any]
    data_hash: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    epochs: int
    test: bool = False
    select: str = "last"
    workers: int = 1

    @cached_property
    def identity(self) -> str:
        """A hash of the config, by which a finished trial is found again."""
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        if self.select == "last":  # as in versions that had no other
            del content["select"]
        if self.workers == 1:
            del content["workers"]
        return _digest([IDENTITY_VERSION, content])

    @cached_property
    def problem_digest(self) -> str:
        """A hash of the problem with its arguments and data; trials that are trained at once agree in it."""
        return _digest([self.problem, self.arguments, self.data_hash])


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class PlannedTrial:
    """A trial with its place in the study."""

    config: TrialConfig
    phase: str  # a key of `hpo.study.phases.PHASES`
    arm: str

    @property
    def is_search(self) -> bool:
        """True if it runs on the search seed and reads no test split."""
        return not self.config.test

    @property
    def name(self) -> str:
        """The name of its run in the MLflow UI."""
        return f"{self.arm} seed {self.config.seed}"


@dataclass
class EpochReport:
    """The report of one epoch of a trial, with a number per task. w, G, r and losses are means over the epoch."""

    epoch: int
    epochs: int
    steps: int
    seconds: float
    loss: dict[str, float]
    validation: dict[str, float]
    weights: dict[str, float]
    gradient_norms: dict[str, float]
    rates: dict[str, float]


@dataclass
class EpochMetrics:
    """The metrics of a trial after one epoch, by task; ``test`` and ``train`` are empty where they were not read."""

    epoch: int
    validation: dict[str, float]
    test: dict[str, float] = field(default_factory=dict)
    train: dict[str, float] = field(default_factory=dict)


@dataclass
class TrialResult:
    """The result of a trial.

    Attributes:
        status: of a failed trial, ``error`` has the reason.
        steps: optimizer steps.
        seconds: wall-clock seconds in training steps, without evaluation; in a cohort, an equal share of its seconds.
        together: number of trials trained at once, including this one.
        validation: metric of each task on the validation split after the last epoch.
        test: the same on the test split, empty unless the config asked for it.
        train: the same on the training split, read with the test split; empty if the problem does not support it.
        best_epochs: with ``select: best`` the epochs that may be the best (`hpo.training.best_epochs`), which hold
            the metrics on test and train; otherwise empty.
        averages: E_t[w] for each of `AVERAGES` and each task; sums to T.
        initial_losses: L_i of the first step; 0 where the task was absent from it.
        alarms: warnings about this trial for the user.
        resumed: the steps at which it resumed from a checkpoint.
        error: one line and a traceback.
        trajectory: ``step`` (n,) and ``w``, ``G``, ``r``, ``L`` (n, T), NaN where not measured.
    """

    status: TrialStatus
    steps: int = 0
    seconds: float = 0.0
    together: int = 1
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    train: dict[str, float] = field(default_factory=dict)
    best_epochs: list[EpochMetrics] = field(default_factory=list)
    averages: dict[str, dict[str, float]] = field(default_factory=dict)
    initial_losses: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    error: str = ""
    trajectory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = TrialStatus(self.status)  # read from JSON, it is text
        self.best_epochs = [e if isinstance(e, EpochMetrics) else EpochMetrics(**e) for e in self.best_epochs]


class EventKind(Enum):
    """The kinds of events that a worker reports while it trains a cohort."""

    EPOCH = "epoch"  # an `EpochReport`
    RESULT = "result"  # a `TrialResult`
    RESUMED = "resumed"  # the steps of the checkpoint from which it resumes
    ALONE = "alone"  # why the trials of a cohort are trained one after another


@dataclass(frozen=True)
class Event:
    """An event that a worker reports.

    Attributes:
        kind: what it is.
        identity: of the trial; empty for events about the cohort.
        content: see `EventKind`.
    """

    kind: EventKind
    identity: str
    content: Any


@dataclass(frozen=True)
class WorkerTask:
    """A worker's instructions to train a cohort, as JSON without the storage's address, which may hold a secret.

    Attributes:
        identities: of the trials, to verify that their configs arrived unchanged.
        cohort: their configs as mappings.
        until: for each trial the epoch at which it returns to the driver.
        target: the problem as ``package.module:Class``, so that a node does not need to resolve its name.
        import_paths: the driver's module search path.
        cpu, gpu: resources of each process of a trial.
        checkpoint_seconds: seconds between two checkpoints of a trial.
        folder: in which the command was given.
    """

    identities: list[str]
    cohort: list[dict[str, Any]]
    until: list[int]
    target: str
    import_paths: list[str]
    cpu: float
    gpu: float
    checkpoint_seconds: float
    folder: str = ""
