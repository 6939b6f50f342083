"""What a training run leaves behind, kept while it trains: step records, epochs, checks, warnings. Torch alone."""

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
from hpo.core.trial import AVERAGES, EpochReport, TrialConfig, TrialResult, TrialStatus
from hpo.training.gradnorm_diagnostics import trajectory_alarms

COLUMNS = ("w", "G", "r", "L")


class Diverged(Exception):  # noqa: N818 - a status, not an error of anybody
    """A loss or a metric is not finite."""


class StepBuffer:
    """The step records of an epoch, kept on the device, so that the host waits once an epoch.

    A row is (4, T), the `COLUMNS` of one step; (4, K, T) of K stacked networks.
    """

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._blocks: list[Tensor] = []  # the rows before the last checkpoint, on the host: one block, or none

    def add(self, record: StepRecord) -> None:
        """Take in a step; NaN where it has measured nothing."""
        missing = torch.full_like(record.losses, torch.nan)
        G = missing if record.gradient_norms is None else record.gradient_norms
        r = missing if record.rates is None else record.rates
        self._rows.append(torch.stack([record.weights, G, r, record.losses]))

    def take(self) -> Tensor:
        """All rows on the host, (steps, 4, K, T), and begin anew; waits for the device.

        Raises:
            ValueError: there are none.
        """
        if not (blocks := self.read()):
            raise ValueError("loader('train') gave no batch; it should be an iterable that each epoch can go through")
        self._blocks = []
        return blocks[0]

    def read(self) -> list[Tensor]:
        """The same for a checkpoint, in a list of one, or of none; waits for the device."""
        if self._rows:
            rows = torch.stack([row.to(self._rows[-1]) for row in self._rows]).cpu()
            rows = rows.reshape(len(rows), len(COLUMNS), -1, rows.shape[-1])
            self._rows, self._blocks = [], [torch.cat([*self._blocks, rows])]
        return self._blocks

    def load(self, blocks: Sequence[Sequence[Tensor]]) -> None:
        """The inverse of `read`: the block (steps, 4, T) of each of K networks, if they have one."""
        self._rows, self._blocks = [], [torch.stack(parts, dim=2) for parts in zip(*blocks, strict=True)]


def _without_numbers(note: str) -> str:
    return re.sub(r"\d+", "#", note)


class TrialRecorder:
    """The records of one trial, from its first step to its result.

    Args:
        config: of the trial.
        tasks: in the problem's order.

    Attributes:
        result: as far as it is known.
        reports: of the epochs that have ended.
    """

    def __init__(self, config: TrialConfig, tasks: Sequence[str]) -> None:
        self.config, self.tasks = config, list(tasks)
        self.trained = [config.settings["task"]] if config.method == "single_task" else self.tasks
        self.result = TrialResult(TrialStatus.FINISHED)
        self.reports: list[EpochReport] = []
        self._blocks: list[Tensor] = []  # of step rows, an epoch each
        self._warnings: dict[str, str] = {}  # of a balancer of version 0.1, in a checkpoint of its

    def begin(self, losses: Mapping[str, float]) -> None:
        """Take in the losses of the first step; a task that is missing or NaN is absent from it.

        Raises:
            Diverged: one is infinite, or all are NaN.
        """
        absent = {task for task in self.tasks if math.isnan(losses.get(task, math.nan))}
        self.result.initial_losses = {task: 0.0 if task in absent else losses[task] for task in self.tasks}
        diverged = bool(losses) and all(map(math.isnan, losses.values()))
        self._check("the first loss", losses if diverged else self.result.initial_losses)

    def end_steps(self, block: Tensor) -> dict[str, dict[str, float]]:
        """Take in the steps of an epoch, (steps, 4, T).

        Returns:
            For each of `COLUMNS` and each task the mean over the epoch's steps that have it; NaN where none has.

        Raises:
            Diverged: the mean of a loss is not finite: it is infinite once, a task has a loss in no step, or all are
                NaN at the end.
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
        """Close an epoch with what `end_steps` returned and the metrics on the validation split.

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
        return report

    def measured(self, split: str, metrics: Mapping[str, float]) -> dict[str, float]:
        """The metrics of a split, if they are what they should be.

        Raises:
            ValueError: they are of other tasks.
            Diverged: one is not finite.
        """
        if metrics.keys() != set(self.tasks):
            raise ValueError(f"evaluate() should return a metric for each of {self.tasks}. Found {sorted(metrics)}.")
        self._check(f"the metric on {split}", metrics)
        return {task: metrics[task] for task in self.tasks}  # its keys may be of a class of the user's

    def _check(self, what: str, numbers: Mapping[str, float]) -> None:
        """What a single-task trial does to the other tasks does not matter."""
        bad = {task: number for task, number in numbers.items() if task in self.trained and not math.isfinite(number)}
        if bad:
            found = ", ".join(f"{task} = {number}" for task, number in bad.items())
            raise Diverged(f"{what} is not finite after {self.result.steps} steps: {found}")

    def quietly(self, read: Callable[[], Any]) -> Any:
        """Read from the balancer without its warnings; `close` has what it has to say."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BalancerWarning)
            return read()

    def state(self, rows: Sequence[Tensor]) -> dict[str, Any]:
        """For a checkpoint; ``rows`` are those of the epoch that has not ended, (steps, 4, T) each."""
        return {
            "records": {"blocks": list(self._blocks), "rows": list(rows)},
            "reports": [vars(report) for report in self.reports],
            "steps": self.result.steps,
            "seconds": self.result.seconds,
            "initial_losses": self.result.initial_losses,
            "resumed": self.result.resumed,
            "warnings": self._warnings,
        }

    def load(self, state: Mapping[str, Any]) -> list[Tensor]:
        """Go on from `state`; returns its ``rows``."""
        self._blocks = list(state["records"]["blocks"])
        self.reports = [EpochReport(**report) for report in state["reports"]]
        self.result.validation = self.reports[-1].validation if self.reports else {}
        self.result.steps, self.result.seconds = state["steps"], state["seconds"]
        self.result.initial_losses = state["initial_losses"]
        self.result.resumed = [*state["resumed"], state["steps"]]
        self._warnings = state["warnings"]
        return list(state["records"]["rows"])

    def close(self, balancer: Balancer | None) -> TrialResult:
        """The result, with what the balancer has to say if it came to be built."""
        finished = self.result.status in (TrialStatus.FINISHED, TrialStatus.PAUSED) and balancer is not None
        if finished:
            assert balancer is not None
            for name, arguments in AVERAGES.items():
                mean = self.quietly(partial(balancer.mean_weights, **arguments))
                if bool(mean.isfinite().all()):  # weights below zero, which some methods take, have no ratios
                    self.result.averages[name] = dict(zip(self.tasks, mean.double().tolist(), strict=True))
            kept = self._warnings | {_without_numbers(note): note for note in balancer.notes()}
            self.result.alarms += sorted(kept.values())
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
