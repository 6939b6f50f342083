"""The config of a trial and what the trial reports: plain data. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
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
    """How a trial has ended, or that it waits."""

    FINISHED = "finished"
    DIVERGED = "diverged"  # a loss or a metric was not finite
    FAILED = "failed"
    STOPPED = "stopped"  # before its last epoch, since others did better
    PAUSED = "paused"  # waits for the others of its search, and then goes on or is stopped

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is still to come."""
        return self is not TrialStatus.PAUSED

    @property
    def has_score(self) -> bool:
        """Whether its metrics can be compared; one that was stopped has those of its last epoch."""
        return self in (TrialStatus.FINISHED, TrialStatus.STOPPED)

    @property
    def is_final(self) -> bool:
        """Whether it never runs again; a trial that failed or was stopped may."""
        return self in (TrialStatus.FINISHED, TrialStatus.DIVERGED)


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides how a trial trains, and nothing else; all of it JSON.

    Args:
        problem: name of the problem.
        arguments: what the problem was told.
        data_hash: `Problem.data_hash`, so that other data make another trial.
        method: a key of `hpo.training.methods.METHODS`.
        settings: the method's settings.
        seed: initial network, batch order, dropout.
        epochs: passes over the training data.
        test: whether the test split is read at the end, which only confirm trials may.
    """

    problem: str
    arguments: Mapping[str, Any]
    data_hash: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    epochs: int
    test: bool = False

    @cached_property
    def identity(self) -> str:
        """A hash of the config: the name under which a finished trial is recognised."""
        return _digest([IDENTITY_VERSION, asdict(self)])


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
        """Whether it runs on the search seed, and reads no test split."""
        return not self.config.test

    @property
    def name(self) -> str:
        """The name of its run in the MLflow UI."""
        return f"{self.arm} seed {self.config.seed}"


@dataclass
class EpochReport:
    """What a trial tells after each epoch; for each task a number. w, G, r and losses are means over the epoch."""

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
class TrialResult:
    """How a trial ended.

    Attributes:
        status: if it failed, ``error`` says why.
        steps: optimizer steps.
        seconds: wall-clock seconds in training steps, evaluation left out; of a cohort's, an equal share.
        together: how many trials were trained at once, this one among them.
        validation: metric of each task on the validation split after the last epoch.
        test: the same on the test split, empty unless the config asked for it.
        train: the same on the training split, read beside the test split; empty if the problem cannot.
        averages: for each of `AVERAGES` and each task E_t[w]; sums to T.
        initial_losses: L_i of the first step; 0 where the task was absent from it.
        alarms: what the user should know of this trial.
        resumed: the steps after which it went on from a checkpoint.
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
    averages: dict[str, dict[str, float]] = field(default_factory=dict)
    initial_losses: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    error: str = ""
    trajectory: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.status = TrialStatus(self.status)  # from JSON it comes as text


class EventKind(Enum):
    """The kinds of events that a worker reports while it trains a cohort."""

    EPOCH = "epoch"  # an `EpochReport`
    RESULT = "result"  # a `TrialResult`
    RESUMED = "resumed"  # the steps of the checkpoint that it goes on from
    ALONE = "alone"  # why the trials of a cohort are trained one after another


@dataclass(frozen=True)
class Event:
    """An event that a worker reports.

    Attributes:
        kind: what it is.
        identity: of the trial; empty where it is about the cohort.
        content: see `EventKind`.
    """

    kind: EventKind
    identity: str
    content: Any


@dataclass(frozen=True)
class WorkerTask:
    """A cohort as a worker is asked to train it; all of it JSON. The storage's address may hold a secret: not here.

    Attributes:
        identities: of the trials, to see that their configs came through unchanged.
        cohort: their configs as mappings.
        until: for each how many epochs it is to have when it comes back.
        target: the problem as ``package.module:Class``, so that the node needs not know its name.
        import_paths: where the driver finds modules.
        cpu, gpu: what a trial may take.
        checkpoint_seconds: between two checkpoints of a trial.
    """

    identities: list[str]
    cohort: list[dict[str, Any]]
    until: list[int]
    target: str
    import_paths: list[str]
    cpu: float
    gpu: float
    checkpoint_seconds: float
