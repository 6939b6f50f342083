"""The records of the backward passes that make one step of the optimizer, under gradient accumulation."""

from __future__ import annotations

import torch
from torch import Tensor

from balancers import Balancer, StepRecord


class JoinedPasses:
    """Joins the records of a balancer that makes one in each pass, so that all trials count optimizer steps."""

    def __init__(self) -> None:
        self._records: list[StepRecord] = []

    def add(self, record: StepRecord, balancer: Balancer) -> StepRecord | None:
        """Add a record; return that of the step if it ends with this pass."""
        if balancer.joins_passes or (balancer.accumulate == 1 and not self._records):
            return record
        self._records.append(record)
        return self.close() if len(self._records) >= balancer.accumulate else None

    def close(self) -> StepRecord | None:
        """Return the record of a step that ends early; ``None`` if none is under way."""
        records, self._records = self._records, []
        if len(records) < 2:
            return records[0] if records else None
        weights, losses, norms, rates = zip(*records, strict=True)
        return StepRecord(torch.stack(weights).mean(0), _mean(losses), _optional(norms), _optional(rates))


def _mean(values: tuple[Tensor, ...]) -> Tensor:
    """Return the means over the passes in which a task was present: neither 0 nor NaN."""
    stacked = torch.stack(values)
    return torch.where(stacked == 0, torch.nan, stacked).nanmean(0)


def _optional(values: tuple[Tensor | None, ...]) -> Tensor | None:
    given = tuple(value for value in values if value is not None)
    return _mean(given) if given else None
