"""The records of a training run: steps, epochs, checks, warnings. Depends only on torch."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from balancers import Balancer, BalancerWarning, GradNorm, StepRecord
from hpo.core.trial import AVERAGES, EpochMetrics, EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.problems.base import Task
from hpo.training.best_epochs import with_epoch
from hpo.training.gradnorm_diagnostics import trajectory_alarms

COLUMNS = ("w", "G", "r", "L")


class Diverged(Exception):  # noqa: N818 - a status, not an error of anybody
    """A loss or a metric is not finite."""


class StepBuffer:
    """The step records of an epoch, kept on the device, so that the host waits only once per epoch.

    A row has shape (4, T), the `COLUMNS` of one step; (4, K, T) for K stacked networks.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._blocks: list[Tensor] = []  # the rows before the last checkpoint, on the host: at most one block

    def add(self, record: StepRecord) -> None:
        """Add a step; quantities that it did not measure are NaN."""
        missing = torch.full_like(record.losses, torch.nan)
        G = missing if record.gradient_norms is None else record.gradient_norms
        r = missing if record.rates is None else record.rates
        self._rows.append(torch.stack([record.weights, G, r, record.losses]))

    def take(self) -> Tensor:
        """Return all rows on the host, (steps, 4, K, T), and clear the buffer; waits for the device.

        Raises:
            ValueError: there are none.
        """
        if not (blocks := self.read()):
            raise ValueError("loader('train'): expected an iterable that gives batches in each epoch, got no batch")
        self._blocks = []
        return blocks[0]

    def read(self) -> list[Tensor]:
        """Return the rows for a checkpoint, as a list of at most one block; waits for the device."""
        if self._rows:
            rows = torch.stack([row.to(self._rows[-1]) for row in self._rows]).cpu()
            rows = rows.reshape(len(rows), len(COLUMNS), -1, rows.shape[-1])
            self._rows, self._blocks = [], [torch.cat([*self._blocks, rows])]
        return self._blocks

    def load(self, blocks: Sequence[Sequence[Tensor]]) -> None:
        """Restore from the results of `read` for each of K networks, blocks of shape (steps, 4, T)."""
        self._rows, self._blocks = [], [torch.stack(parts, dim=2) for parts in zip(*blocks, strict=True)]


def _without_numbers(note: str) -> str:
    return re.sub(r"\d+", "#", note)


class TrialRecorder:
    """The records of one trial, from its first step to its result.

    Args:
        config: of the trial.
        tasks: of the problem.

    Attributes:
        result: the result so far.
        reports: the reports of the epochs that have ended.
    """

    def __init__(self, config: TrialConfig, tasks: Sequence[Task]) -> None:
        self.config, self.tasks = config, [task.name for task in tasks]
        self.trained = [config.settings["task"]] if config.method == "single_task" else self.tasks
        self._directions = {task.name: task.sign for task in tasks if task.name in self.trained}
        self.result = TrialResult(TrialStatus.FINISHED)
        self.reports: list[EpochReport] = []
        self._blocks: list[Tensor] = []  # of step rows, one per epoch
        self._warnings: dict[str, str] = {}  # by cause

    def begin(self, losses: Mapping[str, float]) -> None:
        """Record the losses of the first step; a task whose loss is missing or NaN is absent from it.

        Raises:
            Diverged: a loss is infinite, or all are NaN.
        """
        absent = {task for task in self.tasks if math.isnan(losses.get(task, math.nan))}
        self.result.initial_losses = {task: 0.0 if task in absent else losses[task] for task in self.tasks}
        diverged = bool(losses) and all(map(math.isnan, losses.values()))
        self._check("the first loss", losses if diverged else self.result.initial_losses)

    def end_steps(self, block: Tensor) -> dict[str, dict[str, float]]:
        """Record the steps of an epoch, (steps, 4, T).

        Returns:
            For each of `COLUMNS` and each task the mean over the steps that measured it; NaN if there is none.

        Raises:
            Diverged: the mean of a loss is not finite, because a loss was infinite, a task was absent from every
                step, or all losses are NaN in the last step.
        """
        self._blocks.append(block)
        means = block.nanmean(0)
        if bool(block[-1, 3].isnan().all()):
            means[3] = torch.nan
        named = (dict(zip(self.tasks, values, strict=True)) for values in means.tolist())
        found = dict(zip(COLUMNS, named, strict=True))
        self._check("the training loss", found["L"])
        return found

    def end_epoch(self, means: Mapping[str, Mapping[str, float]], validation: Mapping[str, float]) -> EpochReport:
        """End an epoch with the means from `end_steps` and the metrics on the validation split.

        Raises:
            Diverged: a metric is not finite.
        """
        self.result.validation = self.measured("val", validation)
        finite = {
            name: {task: value for task, value in values.items() if math.isfinite(value)}
            for name, values in means.items()
        }
        report = EpochReport(
            epoch=len(self.reports) + 1,
            epochs=self.config.epochs,
            steps=self.result.steps,
            seconds=self.result.seconds,
            loss=finite["L"],
            validation=self.result.validation,
            weights=finite["w"],
            gradient_norms=finite["G"],
            rates=finite["r"],
        )
        self.reports.append(report)
        if self.config.select == "best":
            found = EpochMetrics(report.epoch, self.result.validation)
            self.result.best_epochs = with_epoch(self.result.best_epochs, found, self._directions)
        return report

    @property
    def may_be_best(self) -> bool:
        """True if the epoch that has just ended may be the one whose metrics count."""
        return bool(self.result.best_epochs) and self.result.best_epochs[-1].epoch == len(self.reports)

    def measured(self, split: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """Check and return the metrics of a split.

        Raises:
            ValueError: the tasks are not those of the problem.
            Diverged: a metric is not finite.
        """
        if metrics.keys() != set(self.tasks):
            raise ValueError(f"evaluate(): expected a metric for each of {self.tasks}, got {sorted(metrics)}")
        self._check(f"the metric on {split}", metrics)
        return {task: metrics[task] for task in self.tasks}  # the user's keys may be a subclass of str

    def _check(self, what: str, numbers: Mapping[str, float]) -> None:
        """Raise `Diverged` if a number of a trained task is not finite; a single-task trial ignores the others."""
        bad = {task: number for task, number in numbers.items() if task in self.trained and not math.isfinite(number)}
        if bad:
            found = ", ".join(f"{task} = {number}" for task, number in bad.items())
            raise Diverged(f"{what} is not finite after {self.result.steps} steps: {found}")

    def warn(self, text: str) -> None:
        """Add an alarm of the trial, once however often it is given, also after a checkpoint."""
        self._warnings[_without_numbers(text)] = text

    def quietly(self, read: Callable[[], Any]) -> Any:
        """Read from the balancer without its warnings, which `close` collects."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BalancerWarning)
            return read()

    def state(self, rows: Sequence[Tensor]) -> dict[str, Any]:
        """Return the state for a checkpoint; ``rows`` belong to the unfinished epoch, (steps, 4, T) each."""
        return {
            "records": {"blocks": list(self._blocks), "rows": list(rows)},
            "reports": [vars(report) for report in self.reports],
            "best_epochs": [vars(epoch) for epoch in self.result.best_epochs],
            "steps": self.result.steps,
            "seconds": self.result.seconds,
            "initial_losses": self.result.initial_losses,
            "resumed": self.result.resumed,
            "warnings": self._warnings,
        }

    def load(self, state: Mapping[str, Any]) -> list[Tensor]:
        """Continue from `state`; return its ``rows``."""
        self._blocks = list(state["records"]["blocks"])
        self.reports = [EpochReport(**report) for report in state["reports"]]
        self.result.validation = self.reports[-1].validation if self.reports else {}
        self.result.best_epochs = [EpochMetrics(**epoch) for epoch in state.get("best_epochs", [])]
        self.result.steps, self.result.seconds = state["steps"], state["seconds"]
        self.result.initial_losses = state["initial_losses"]
        self.result.resumed = [*state["resumed"], state["steps"]]
        self._warnings = state["warnings"]
        return list(state["records"]["rows"])

    def close(self, balancer: Balancer | None) -> TrialResult:
        """Return the result, with the balancer's notes if there is a balancer."""
        finished = self.result.status in (TrialStatus.FINISHED, TrialStatus.PAUSED) and balancer is not None
        if finished:
            assert balancer is not None
            for name, arguments in AVERAGES.items():
                mean = self.quietly(partial(balancer.mean_weights, **arguments))
                if bool(mean.isfinite().all()):  # weights below 0, which some methods use, have no geometric mean
                    self.result.averages[name] = dict(zip(self.tasks, mean.double().tolist(), strict=True))
            kept = self._warnings | {_without_numbers(note): note for note in balancer.notes()}
            self.result.alarms += sorted(kept.values())
        if self.result.status is TrialStatus.REFUSED:
            self.result.alarms.append(f"left out: {self.result.error}")
        self.result.trajectory = self._trajectory()
        if finished and isinstance(balancer, GradNorm):
            alpha = float(self.config.settings["alpha"])
            self.result.alarms += trajectory_alarms(self.result.trajectory, self.tasks, alpha)
        return self.result

    def _trajectory(self) -> dict[str, Any]:
        if not self._blocks:
            return {}
        whole = torch.cat(self._blocks).float()
        columns = {name: whole[:, i].numpy() for i, name in enumerate(COLUMNS)}
        return {"step": torch.arange(len(whole), device="cpu").numpy(), **columns}
