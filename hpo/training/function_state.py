"""The state of a training function's trial for its checkpoints, on all of its ranks. Depends only on torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from balancers import Balancer
from hpo.training.ranks import Ranks
from hpo.training.recorder import StepBuffer, TrialRecorder
from hpo.training.resumable_loader import read_state, set_state
from hpo.training.saved_parts import SavedParts


class FunctionState:
    """The state of a trial that a checkpoint holds.

    The parts, the balancer and the records are those of rank 0. Each rank has random states of its own.

    Args:
        log: of the trial.
        rows: the steps of the epoch.
        ranks: the processes of the trial.
        device: where this process trains.

    Attributes:
        parts: the objects that the function has handed over.
    """

    def __init__(self, log: TrialRecorder, rows: StepBuffer, ranks: Ranks, device: torch.device) -> None:
        self.parts: SavedParts | None = None
        self._log, self._rows, self._ranks, self._device = log, rows, ranks, device

    def read(self, balancer: Balancer | None, where: str) -> dict[str, Any]:
        """Return the state without the parts that rank 0 has; every rank calls it."""
        own = None if balancer is None else self._log.quietly(balancer.state_dict)
        rows = [block[:, :, 0].clone() for block in self._rows.read()]
        random = read_state(self._device)
        state = {"balancer": own, "random": random, **self._log.state(rows)}
        if self._ranks.size > 1:
            parts = {} if self.parts is None else self.parts.of_rank()
            state["ranks"] = self._ranks.all(where, {"random": random, "parts": parts})
        return state

    def read_whole(self, balancer: Balancer | None) -> dict[str, Any]:
        """Return the state with the parts."""
        assert self.parts is not None
        return {"parts": self.parts.state(), **self.read(balancer, "trial.epochs()")}

    def compare(self) -> None:
        """Warn if the networks of the ranks differ: each then trains on its share of the data alone."""
        if self.parts is None or self._ranks.size == 1:
            return
        found = self._ranks.all("trial.epochs()", {name: repr(one) for name, one in self.parts.sums().items()})
        differing = [name for name, one in found[0].items() if any(other.get(name) != one for other in found)]
        if differing:
            self._log.warn(
                f"its processes trained networks that differ ({', '.join(differing)}): wrap them, for instance in "
                "DistributedDataParallel, which averages the gradients"
            )

    def load_parts(self, state: Mapping[str, Any]) -> None:
        """Restore the parts from `read_whole`."""
        assert self.parts is not None
        self.parts.load({**state["parts"], **_own(state, self._ranks).get("parts", {})})

    def load(self, state: Mapping[str, Any], balancer: Balancer | None) -> Mapping[str, Any] | None:
        """Restore everything else; return the balancer's state if there is no balancer yet."""
        waiting = None
        if balancer is None:
            waiting = state["balancer"]
        elif state["balancer"] is not None:
            balancer.load_state_dict(state["balancer"])
        self._rows.load([self._log.load(state)])
        set_state(_own(state, self._ranks)["random"], self._device)
        return waiting


def _own(state: Mapping[str, Any], ranks: Ranks) -> Mapping[str, Any]:
    """Return what a checkpoint holds for this rank alone."""
    of_rank: Mapping[str, Any] = state["ranks"][ranks.rank] if "ranks" in state else {"random": state["random"]}
    return of_rank
