"""The engine of one network that several processes train on shares of each batch. Depends only on torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from balancers import StepRecord
from balancers.ranks import mean_over_ranks
from balancers.weights import fail
from hpo.core.trial import TrialConfig
from hpo.problems.base import Problem
from hpo.training.parts import Parts
from hpo.training.ranks import Ranks
from hpo.training.resumable_loader import read_state, seed_all, set_state
from hpo.training.single_engine import SingleEngine


class RankEngine(SingleEngine):
    """An `Engine` of one trial on one of its ranks.

    Every rank goes through the same batches and trains on its share of each. Gradients are averaged after the
    backward pass, and not by a wrapper around the network, so that ``losses`` sees the network as ``build_model``
    has made it. The random generators are those of one process, alike on all ranks, except while the losses are
    computed: there each rank draws numbers of its own.

    Args:
        problem: computes the losses.
        parts: the network, its optimizer and its shared layer.
        configs: of the one trial.
        device: where this rank trains.
        ranks: the processes.
    """

    def __init__(
        self, problem: Problem, parts: Parts, configs: Sequence[TrialConfig], device: torch.device, ranks: Ranks
    ) -> None:
        super().__init__(problem, parts, configs, device)
        self._ranks = ranks
        common = read_state(device)
        seed_all(configs[0].seed + ranks.rank)
        self._own = read_state(device)
        set_state(common, device)

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """Clear the gradients and return the losses of this rank's share of a batch with their graph."""
        share = self._problem.shard(batch, self._ranks.rank, self._ranks.size)
        common = read_state(self._device)
        set_state(self._own, self._device)
        losses = super().losses(share)
        self._own = read_state(self._device)
        set_state(common, self._device)
        return losses

    def first_losses(self, losses: Mapping[str, Tensor]) -> list[dict[str, float]]:
        """Return the losses of the first step, means over the ranks that have them, as numbers."""
        (own,) = super().first_losses(losses)
        found = self._ranks.mean("losses()", torch.tensor([own.get(task, torch.nan) for task in self._tasks]))
        return [dict(zip(self._tasks, found.tolist(), strict=True))]

    def step(self, losses: Mapping[str, Tensor]) -> StepRecord:
        """Make a backward pass, average the gradients, and make an optimizer step."""
        self._balancer.backward(losses)
        average_gradients(self._updates.parameters(), self._ranks)
        self._updates.step()
        record = self._balancer.last
        assert record is not None
        return record._replace(losses=mean_over_ranks(record.losses))

    def network(self, k: int) -> nn.Module:
        """The network, with the buffers of rank 0, such as the means of BatchNorm."""
        for buffer in self._model.buffers():
            dist.broadcast(buffer, 0)
        return super().network(k)

    def state(self, k: int) -> dict[str, Any]:
        """Return the state for the checkpoint; every rank calls this."""
        self.network(k)
        return {**super().state(k), "ranks": self._ranks.all("a checkpoint", self._own)}

    def load(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Continue from a checkpoint."""
        super().load(states)
        self._own = states[0]["ranks"][self._ranks.rank]


def average_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """Average gradients over the ranks; a rank that has none for a parameter counts as 0 where another has one.

    Raises:
        ValueError: a gradient is sparse.
    """
    there = ranks.sum(torch.tensor([float(parameter.grad is not None) for parameter in parameters]))
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for parameter, count in zip(parameters, there.tolist(), strict=True):
        if count:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad.is_sparse:
                fail("resources.workers", "1 for networks with sparse gradients", dist.get_world_size())
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter.grad)
    for gradients in kinds.values():
        joined = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(joined)
        joined /= dist.get_world_size()
        parts = torch.split(joined, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
