"""Weights that never move: given, equal, or one task alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from balancers.base import Average, Balancer
from balancers.losses import StepLosses
from balancers.weights import close, fail
from balancers.weights_address import shown
from balancers.weights_file import read_weights


class Static(Balancer):
    """Fixed loss weights, as in a grid search and in production training.

    Args:
        tasks: names of the tasks.
        weights: one finite number above 0 for each task; scaled to sum to T.

    Raises:
        ValueError: a missing or unknown task, a weight that is not finite or not above 0.

    >>> import torch
    >>> from balancers import Static
    >>> balancer = Static(tasks=["depth", "normals"], weights={"depth": 3.0, "normals": 1.0})
    >>> balancer.weights
    tensor([1.5000, 0.5000])
    """

    def __init__(self, tasks: Sequence[str], weights: Mapping[str, float]) -> None:
        super().__init__(tasks)
        missing = [task for task in self.tasks if task not in weights]
        known = set(self.tasks)
        unknown = [task for task in weights if task not in known]
        if missing or unknown:
            fail("weights", f"a number for exactly the tasks {self.tasks}", f"missing {missing}, unknown {unknown}")
        for task, weight in weights.items():
            if not 0 < weight <= sys.float_info.max:  # an integer may be larger than any float
                fail(f"weights[{task!r}]", "a finite number > 0", weight)
        _, exponent = math.frexp(max(weights.values()))  # a power of 2 changes no digit, and no sum is infinite then
        exact = [math.ldexp(weights[task], -exponent) for task in self.tasks]
        self._w = close(torch.tensor(exact, dtype=torch.float64)).to(torch.get_default_dtype())
        if not bool((self._w > 0).all()):
            fail("weights", f"numbers near enough to each other for {self._w.dtype}", dict(weights))

    @classmethod
    def load(cls, path: str | Path, tasks: Sequence[str] | None = None) -> Self:
        """Read a weights file that ``gradsweep export`` has written. A local file needs torch alone.

        Args:
            path: the JSON file; or, with MLflow installed, ``"runs:/<run id>/path"``, ``"models:/<name>/<version>"``
                or ``"models:/<name>@<alias>"``, from the MLflow that ``MLFLOW_TRACKING_URI`` names; or, with fsspec
                installed, any address that it can open, such as ``"s3://bucket/weights.json"``.
            tasks: the tasks of your network, in your order; the file must have exactly these. ``None`` takes the
                file's.

        Raises:
            FileNotFoundError: there is no such file.
            ImportError: a package that the address needs is not installed; the message names it.
            ValueError: the file cannot be read, has more than 10 MB, an unknown schema, a missing or unknown task, a
                weight that is not finite and above 0; the message names the file and says which.
        """
        weights = read_weights(path)
        try:
            return cls(list(weights) if tasks is None else tasks, weights)
        except ValueError as error:
            raise ValueError(f"{shown(path)}: {error}") from None

    def _weigh(self, step: StepLosses) -> Tensor:
        self._end_step(step.values, None)
        return step.weighted(self._w, step.L)

    def _join(self, empty: StepLosses) -> None:
        """The ranks have nothing to exchange."""

    def _alike(self) -> tuple[Hashable, ...]:
        return Static, self._step  # one of `Equal` too


class Equal(Static):
    """Every weight 1: the baseline that costs nothing.

    Args:
        tasks: names of the tasks.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__(tasks, dict.fromkeys(tasks, 1.0))


class SingleTask(Balancer):
    """Weight 1 for one task and 0 for all others: the reference that every score is relative to.

    Args:
        tasks: names of the tasks.
        task: the one to train.
    """

    sums_to_T = False
    positive = False

    def __init__(self, tasks: Sequence[str], task: str) -> None:
        super().__init__(tasks)
        if task not in self.tasks:
            fail("task", f"one of {self.tasks}", repr(task))
        self.task = task
        self._w = torch.tensor([float(name == task) for name in self.tasks])

    def _weigh(self, step: StepLosses) -> Tensor:
        self._end_step(step.values, None)
        own = self.tasks.index(self.task)
        # Not a slice of L: its gradient would run, as zeros, through every head.
        found = [loss for number, loss in zip(step.numbers, step.graphs, strict=True) if number == own]
        # Without its task the gradient is 0, as in a cohort, and not none: the optimizer takes a step all the same.
        return found[0] if found else (0 * step.L.nan_to_num()).sum()

    def _notes(self) -> Iterator[tuple[str, str]]:
        """Of its own task alone."""
        return (note for note in super()._notes() if note[0].endswith(f" {self.task}"))

    def _join(self, empty: StepLosses) -> None:
        """The ranks have nothing to exchange."""

    def _mean(self, kind: Average, start: float) -> Tensor:
        del kind, start
        return self._w.clone()
