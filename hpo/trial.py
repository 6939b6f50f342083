"""Train one trial: one problem, method, settings and seed. Needs torch alone, so that it can be profiled alone."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from balancers import Balancer, BalancerWarning, GradNorm, StepRecord
from hpo.checkpoint import Checkpoints
from hpo.generators import DataOrder, seed_all
from hpo.methods import OVER_THE_RUN, build_balancer
from hpo.problem import Problem, to_device
from hpo.trial_alarms import trajectory_alarms

IDENTITY_VERSION = 2  # raise when the same config would train differently than before

# name -> arguments of Balancer.mean_weights: the averages E_t[w] that every trial reports
AVERAGES: dict[str, dict[str, Any]] = {
    "arithmetic": {"kind": "arithmetic", "start": 0.0},
    "geometric": {"kind": "geometric", "start": 0.0},
    "tail": {"kind": "arithmetic", "start": 0.5},
    "geometric_tail": {"kind": "geometric", "start": 0.5},
}


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides how a trial trains, and nothing else; all of it JSON.

    Args:
        problem: name of the problem.
        arguments: what the problem was told.
        data_hash: `Problem.data_hash`, so that other data make another trial.
        method: a key of `hpo.methods.METHODS`.
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
        status: ``finished``; ``diverged`` (a loss or a metric was not finite); ``failed`` (``error`` says why).
        steps: optimizer steps.
        seconds: wall-clock seconds in training steps, evaluation left out.
        validation: metric of each task on the validation split after the last epoch.
        test: the same on the test split, empty unless the config asked for it.
        train: the same on the training split, read beside the test split; empty if the problem cannot.
        averages: for each of `AVERAGES` and each task E_t[w]; sums to T.
        initial_losses: L_i of the first step.
        alarms: what the user should know of this trial.
        resumed: the steps after which it went on from a checkpoint.
        error: one line and a traceback.
        trajectory: ``step`` (n,) and ``w``, ``G``, ``r``, ``L`` (n, T), NaN where not measured.
    """

    status: str
    steps: int = 0
    seconds: float = 0.0
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    train: dict[str, float] = field(default_factory=dict)
    averages: dict[str, dict[str, float]] = field(default_factory=dict)
    initial_losses: dict[str, float] = field(default_factory=dict)
    alarms: list[str] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    error: str = ""
    trajectory: dict[str, Any] = field(default_factory=dict)


class Diverged(Exception):  # noqa: N818 - a status, not an error of anybody
    """A loss or a metric is not finite."""


class _Recorder:
    """Collects the step records of a run on the device; the host waits once an epoch."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = tasks
        self._rows: list[Tensor] = []
        self._blocks: list[Tensor] = []

    def add(self, record: StepRecord) -> None:
        missing = torch.full_like(record.losses, torch.nan)
        G = missing if record.gradient_norms is None else record.gradient_norms
        r = missing if record.rates is None else record.rates
        self._rows.append(torch.stack([record.weights, G, r, record.losses]))

    def end_epoch(self) -> dict[str, dict[str, float]]:
        """Means over the epoch of w, G, r and L for each task; NaN where never measured."""
        if not self._rows:
            raise ValueError("loader('train') gave no batch; it should be an iterable that each epoch can go through")
        block = torch.stack([row.to(self._rows[-1]) for row in self._rows]).cpu()  # a resumed one may be on the host
        self._rows.clear()
        self._blocks.append(block)
        means = [*block[:, :3].nanmean(0).tolist(), block[:, 3].mean(0).tolist()]  # a NaN loss must show
        named = (dict(zip(self._tasks, values, strict=True)) for values in means)
        return dict(zip(("w", "G", "r", "L"), named, strict=True))

    def trajectory(self) -> dict[str, Any]:
        if not self._blocks:
            return {}
        whole = torch.cat(self._blocks).float()
        columns = {name: whole[:, i].numpy() for i, name in enumerate(("w", "G", "r", "L"))}
        return {"step": torch.arange(len(whole)).numpy(), **columns}

    def state(self) -> dict[str, list[Tensor]]:
        """For a checkpoint; waits for the device."""
        return {
            "blocks": list(self._blocks),
            "rows": [torch.stack([row.cpu() for row in self._rows])] if self._rows else [],
        }

    def load(self, state: Mapping[str, list[Tensor]]) -> None:
        self._blocks = list(state["blocks"])
        self._rows = [row for block in state["rows"] for row in block]


def run_trial(
    config: TrialConfig,
    problem: Problem,
    report: Callable[[EpochReport], None],
    device: torch.device,
    checkpoints: Checkpoints | None = None,
    resumed: Callable[[int], object] = abs,
) -> TrialResult:
    """Train a trial to its end; what goes wrong in the user's code or numbers comes back as a status.

    Args:
        config: what to train.
        problem: the instance that ``config.problem`` and ``config.arguments`` name.
        report: called after each epoch, and again for each epoch before the checkpoint that a trial goes on from.
        device: where to train.
        checkpoints: where to look for a checkpoint and to write more; ``None`` begins at the first step.
        resumed: told the steps of the checkpoint that it goes on from.
    """
    trial = _Training(config, problem, device, checkpoints)
    try:
        trial.run(report, resumed)
    except Diverged as error:
        trial.result.status, trial.result.error = "diverged", str(error)
    except Exception as error:  # the study goes on and names the trial
        line = f"{type(error).__name__}: {error}"
        trial.result.status, trial.result.error = "failed", f"{line}\n\n{traceback.format_exc()}"
    return trial.close()


def _of_length(problem: Problem, epochs: int) -> Problem:
    """The problem as a run of so many epochs sees it; the one handed in, which other trials share, stays as it is."""
    if problem.epochs == epochs:
        return problem
    own = copy.copy(problem)
    own.epochs = epochs
    return own


class _Training:
    """One run of the training loop and what it leaves behind."""

    def __init__(
        self, config: TrialConfig, problem: Problem, device: torch.device, checkpoints: Checkpoints | None
    ) -> None:
        self.config, self.device, self.checkpoints = config, device, checkpoints
        self.problem = _of_length(problem, config.epochs)
        self.tasks = [task.name for task in problem.tasks]
        self.trained = [config.settings["task"]] if config.method == "single_task" else self.tasks
        self._begin()

    def _begin(self) -> None:
        """Nothing has been trained."""
        self.result = TrialResult("finished")
        self.recorder = _Recorder(self.tasks)
        self.reports: list[EpochReport] = []  # of the epochs that have ended
        self.warnings: dict[str, str] = {}  # of the balancer; by their text without its numbers, which may grow
        self.clock = 0.0

    def run(self, report: Callable[[EpochReport], None], resumed: Callable[[int], object]) -> None:
        self._build()
        batches = self._resume()
        if batches is not None:
            resumed(self.result.steps)
        for past in self.reports:
            report(past)
        while len(self.reports) < self.config.epochs:
            report(self._epoch(batches or self.order.epoch()))
            batches = None
        if self.config.test:
            self.result.test = self._evaluate("test")
            self._evaluate_train()

    def _build(self) -> None:
        seed_all(self.config.seed)
        self.model = self.problem.build_model(self.config.seed).to(self.device)
        shared = self.problem.shared_layer(self.model)
        self.optimizer = self.problem.build_optimizer(self.model)
        loader = self.problem.loader("train", self.config.seed)
        self.order = DataOrder(loader, self.device)
        self.balancer: Balancer = build_balancer(
            self.config.method, self.config.settings, self.tasks, shared, self._steps(loader)
        )

    def _steps(self, loader: Any) -> int:
        """Optimizer steps of the whole run; 0 where no recipe asks, as a stream need not know its length."""
        if self.config.settings.get("recipe") not in OVER_THE_RUN:
            return 0
        try:
            return max(1, len(loader)) * self.config.epochs  # a loader without batches is told of when it is read
        except TypeError:
            raise ValueError(
                f"recipe {self.config.settings['recipe']!r} has to know the steps of a run: "
                "loader('train') should have a length. Found none."
            ) from None

    def _epoch(self, batches: Iterator[Any]) -> EpochReport:
        self.model.train()
        self.clock = time.perf_counter()
        for batch in batches:
            self._step(batch)
            if self.checkpoints is not None and self.checkpoints.due:
                self._save(self.checkpoints)
        self.balancer.end_epoch()
        means = self.recorder.end_epoch()  # waits for the device
        self._stop_clock()
        self._check("the training loss", means["L"])
        self.result.validation = self._evaluate("val")
        self.reports.append(self._epoch_report(len(self.reports) + 1, means))
        return self.reports[-1]

    def _stop_clock(self) -> None:
        """Count the seconds since the clock was read last as training."""
        now = time.perf_counter()
        self.result.seconds += now - self.clock
        self.clock = now

    def _save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint between two steps; the seconds it takes are not training."""
        records = self.recorder.state()  # waits for the device
        self._stop_clock()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "balancer": self._quietly(self.balancer.state_dict),
            "order": self.order.state(),
            "records": records,
            "reports": [vars(report) for report in self.reports],
            "steps": self.result.steps,
            "seconds": self.result.seconds,
            "initial_losses": self.result.initial_losses,
            "resumed": self.result.resumed,
            "warnings": self.warnings,
        }
        checkpoints.save(self.result.steps, state)
        self.clock = time.perf_counter()

    def _resume(self) -> Iterator[Any] | None:
        """Go on from the newest checkpoint: the rest of its epoch; ``None`` begins at the first step."""
        state = self.checkpoints.latest() if self.checkpoints is not None else None
        if state is None:
            return None
        try:
            return self._load(state)
        except Exception as error:  # the user's model or loader may have changed since
            line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self._begin()
            self.result.alarms.append(f"began at the first step, since its checkpoint does not fit: {line}")
            self._build()
            return None

    def _load(self, state: Mapping[str, Any]) -> Iterator[Any]:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        self.recorder.load(state["records"])
        self.reports = [EpochReport(**report) for report in state["reports"]]
        self.result.validation = self.reports[-1].validation if self.reports else {}
        self.result.steps, self.result.seconds = state["steps"], state["seconds"]
        self.result.initial_losses = state["initial_losses"]
        self.result.resumed = [*state["resumed"], state["steps"]]
        self.warnings = state["warnings"]
        return self.order.resume(state["order"], len(self.reports))

    def _quietly(self, read: Callable[[], Any]) -> Any:
        """Read from the balancer and keep what it warns of; the last of two that differ in a number counts."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", BalancerWarning)
            found = read()
        for warning in caught:
            if issubclass(warning.category, BalancerWarning):
                self.warnings[re.sub(r"\d+", "#", str(warning.message))] = str(warning.message)
        return found

    def _evaluate_train(self) -> None:
        """Only the report's gap between train and test needs it, so what goes wrong here fails no trial."""
        try:
            self.result.train = self._evaluate("train")
        except Exception as error:
            line = " ".join(f"{type(error).__name__}: {error}".split())
            self.result.alarms.append(f"no gap of train and test, since evaluate(model, 'train') raised: {line}")

    def _step(self, batch: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.problem.losses(self.model, to_device(batch, self.device))
        if self.result.steps == 0:
            found = {task: losses.get(task) for task in self.tasks}
            scalars = {task: loss for task, loss in found.items() if isinstance(loss, Tensor) and loss.numel() == 1}
            self.result.initial_losses = {task: float(loss.detach()) for task, loss in scalars.items()}
            self._check("the first loss", self.result.initial_losses)
        self.balancer.backward(losses)
        self.optimizer.step()
        assert self.balancer.last is not None
        self.recorder.add(self.balancer.last)
        self.result.steps += 1

    def _evaluate(self, split: Any) -> dict[str, float]:
        self.model.eval()
        with torch.no_grad():
            metrics = {task: float(value) for task, value in self.problem.evaluate(self.model, split).items()}
        if metrics.keys() != set(self.tasks):
            raise ValueError(f"evaluate() should return a metric for each of {self.tasks}. Found {sorted(metrics)}.")
        self._check(f"the metric on {split}", metrics)
        return metrics

    def _check(self, what: str, numbers: Mapping[str, float]) -> None:
        """What a single-task trial does to the other tasks does not matter."""
        bad = {task: number for task, number in numbers.items() if task in self.trained and not math.isfinite(number)}
        if bad:
            found = ", ".join(f"{task} = {number}" for task, number in bad.items())
            raise Diverged(f"{what} is not finite after {self.result.steps} steps: {found}")

    def _epoch_report(self, epoch: int, means: Mapping[str, Mapping[str, float]]) -> EpochReport:
        finite = {
            name: {task: value for task, value in values.items() if math.isfinite(value)}
            for name, values in means.items()
        }
        return EpochReport(
            epoch=epoch,
            epochs=self.config.epochs,
            steps=self.result.steps,
            seconds=self.result.seconds,
            loss=finite["L"],
            validation=self.result.validation,
            weights=finite["w"],
            gradient_norms=finite["G"],
            rates=finite["r"],
        )

    def close(self) -> TrialResult:
        """Read what the balancer has to say and hand over the result."""
        if self.result.status == "finished":
            for name, arguments in AVERAGES.items():
                mean = self._quietly(partial(self.balancer.mean_weights, **arguments))
                if bool(mean.isfinite().all()):  # weights below zero, which some methods take, have no ratios
                    self.result.averages[name] = dict(zip(self.tasks, mean.double().tolist(), strict=True))
            self.result.alarms += sorted(self.warnings.values())  # checkpoints may have met them in another order
        self.result.trajectory = self.recorder.trajectory()
        if self.result.status == "finished" and isinstance(self.balancer, GradNorm):
            self.result.alarms += trajectory_alarms(self.result.trajectory, self.tasks, self.balancer.alpha)
        self.result.alarms += self.checkpoints.warnings if self.checkpoints is not None else []
        return self.result
