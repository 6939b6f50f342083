"""Counts of unusual events in training, kept on the device, so that no step waits for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

KINDS = ("absent", "nan", "negative", "no gradient")
PATIENCE = 100  # steps in a row with a NaN loss that look like divergence


class Troubles:
    """Counters per task of steps in which it was absent, NaN, below 0 or without gradient: in total and consecutive.

    Steps are counted in blocks, so that most steps compute nothing.

    Args:
        tasks: T.
    """

    BLOCK = 32

    def __init__(self, tasks: int) -> None:
        self._tasks = tasks
        self.counts = torch.zeros(2, len(KINDS), tasks, dtype=torch.long)  # in all, and in a row
        self._steps: list[tuple[Tensor, Tensor | None, tuple[int, ...]]] = []

    def add(self, values: Tensor, norms: Tensor | None, missing: Sequence[int] = ()) -> None:
        """Add a step.

        Args:
            values: losses, (..., T).
            norms: gradient norms, (..., T), if they were measured.
            missing: tasks that the user left out, which are not counted.
        """
        self._steps.append((values, norms, tuple(missing)))
        if len(self._steps) == self.BLOCK:
            self.fold()

    def fold(self) -> None:
        """Count the waiting steps."""
        if not self._steps:
            return
        values = torch.stack([step[0].to(self._steps[-1][0]) for step in self._steps])
        lost = values[0].new_full(values.shape[1:], torch.nan)
        norms = torch.stack([lost if step[1] is None else step[1].to(values) for step in self._steps])
        present = values.abs() > 0
        diverged = values.isnan().all(-1, keepdim=True)  # such a step is refused as a whole
        found = [~present & ~diverged, values.isnan(), values < 0, (norms == 0) & present]
        flags = torch.stack(found, 1).long()  # (steps, kinds, ..., T)
        if any(missing for _, _, missing in self._steps):
            there = torch.ones(len(self._steps), self._tasks, dtype=torch.long)
            for row, (_, _, missing) in enumerate(self._steps):
                there[row, list(missing)] = 0
            flags = flags * there.to(values.device).reshape(len(there), *[1] * (values.dim() - 1), self._tasks)
        in_row = flags.flip(0).cumprod(0).sum(0)
        total, before = self.counts.to(values.device)
        whole = torch.where(in_row == len(flags), before + in_row, in_row)
        self.counts = torch.stack([total + flags.sum(0), whole])
        self._steps = []

    def read(self) -> dict[str, tuple[list[int], list[int]]]:
        """Return for each kind the steps of each task, in total and consecutive; waits for the device."""
        self.fold()
        if not bool(self.counts.any()):
            nothing = [0] * self._tasks
            return dict.fromkeys(KINDS, (nothing, nothing))
        total, in_row = self.counts.reshape(2, len(KINDS), -1, self._tasks).amax(2).tolist()
        return {kind: (total[k], in_row[k]) for k, kind in enumerate(KINDS)}

    def load(self, counts: Tensor | None, w: Tensor) -> None:
        """Continue from counts, or from zero if there are none, for weights like ``w``."""
        shape = (2, len(KINDS), *w.shape)
        self.counts = torch.zeros(shape, dtype=torch.long) if counts is None else counts.clone()
        self._steps = []


def below_zero(tasks: Sequence[str], found: Mapping[str, tuple[list[int], list[int]]]) -> Iterator[tuple[str, str]]:
    """Yield a line for each task whose loss was below 0, where a weight of ``1/L`` is learned.

    Args:
        tasks: T names.
        found: `Troubles.read`.
    """
    for task, steps in zip(tasks, found["negative"][0], strict=True):
        if steps:
            yield (
                f"negative {task}",
                f"Loss of task `{task}` was below 0 in {steps} steps, where the method has no weight for it: its "
                "weight stayed. Add a constant to the loss.",
            )
