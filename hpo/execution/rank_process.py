"""A process of a trial that several processes train, as an actor of Ray."""

from __future__ import annotations

import os
import queue
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

if TYPE_CHECKING:
    from hpo.core.place import Place
    from hpo.core.trial import TrialResult, WorkerTask

THREADS = 4  # of an actor: one trains, the others answer


class Home(NamedTuple):
    """The place where a process runs.

    Attributes:
        node: Ray's id of the node.
        host: the node's address.
        gpus: its GPUs, as CUDA_VISIBLE_DEVICES names them.
    """

    node: str
    host: str
    gpus: list[str]


class RankProcess:
    """Trains as one of the processes of a trial; needs `THREADS` threads.

    torch is imported where it is used, so that an actor answers at once.
    """

    def __init__(self) -> None:
        self._told: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._store: Any = None  # of rank 0, until the trial has begun

    def home(self) -> Home:
        """Return where this process runs."""
        context = ray.get_runtime_context()
        gpus = [str(gpu) for gpu in context.get_accelerator_ids().get("GPU", [])]
        return Home(context.get_node_id(), ray.util.get_node_ip_address(), gpus)

    def see(self, gpus: list[str]) -> None:
        """Make the GPUs of all processes on this node visible, before torch looks at them.

        Libraries take the local rank for the number of the GPU.
        """
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def listen(self, host: str) -> int:
        """Open the store of the next trial; return its port."""
        from hpo.training.ranks import listening

        self._store = listening(host)
        return int(self._store.port)

    def alive(self) -> None:
        """Answer."""

    def train(self, task: WorkerTask, storage: str, place: Place, problem: bytes) -> TrialResult:
        """Train a trial; see `hpo.training.rank_training.train_rank`."""
        from hpo.training.rank_training import train_rank

        if problem:
            from hpo.execution.problem_upload import unpack

            unpack(task.target, problem)
        store, self._store = self._store, None
        try:
            return train_rank(task, storage, place, store, self._told.put)
        finally:
            self._told.put(None)

    def reports(self) -> list[dict[str, Any]]:
        """Wait for reports of `train` and return them; none once it has ended."""
        found = []
        while (told := self._told.get()) is not None:
            found.append(told)
            if self._told.empty():
                return found
        if found:
            self._told.put(None)  # for the next call
        return found
