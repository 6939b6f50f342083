"""The number of trials to train at once, measured on the problem itself. Depends only on torch."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from balancers import Equal, Stack
from hpo.core.trial import TrialConfig
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem, to_device
from hpo.training.autocast import losses_of
from hpo.training.global_state import as_found
from hpo.training.parts import Parts, of_length
from hpo.training.resumable_loader import read_state, set_state
from hpo.training.stacked_network import NotStackable, StackedNetwork
from hpo.training.stacking_check import check_stackable

FIRST, MOST, GROWTH = 4, 128, 2  # sizes to try: 4, 8, ... 128
BETTER = 0.95  # a larger size is chosen only if its time per trial is below this share of the smaller one's
WORTH = 0.85  # and stacking only if its time per trial is below this share of the time of a trial alone
LONG_STEP = 0.5  # seconds per step alone, beyond which a device is busy enough
MEASURE_SECONDS = 0.3  # for each size, after a warm-up step
MEMORY_SHARE = 0.5  # of the free memory; evaluation and the allocator need the rest


@dataclass(frozen=True)
class CohortSize:
    """The number of trials to train at once, and the reason.

    Attributes:
        size: the number; 1 trains one after another.
        why: the reason in words.
    """

    size: int
    why: str


def choose_size(
    problem: Problem, configs: Sequence[TrialConfig], device: torch.device, most: int, workers: int
) -> CohortSize:
    """Train a few steps with equal weights, alone and stacked in growing numbers, while the time per trial falls.

    Args:
        problem: the problem to train.
        configs: some of the trials, of one seed; it is checked first that they can be stacked.
        device: where to train.
        most: the maximum number.
        workers: number of processes that share the memory of the device or node.
    """
    try:
        check_stackable(problem, configs, device)
    except NotStackable as reason:
        return CohortSize(1, f"one at a time, since {reason}")
    own, before = of_length(problem, configs[0].epochs), read_state(device)
    try:
        with as_found():
            return _choose(StepTimer(own, configs[0].seed, device, workers), min(most, MOST))
    finally:
        set_state(before, device)


def _choose(bench: StepTimer, most: int) -> CohortSize:
    alone = bench.alone()
    if alone > LONG_STEP:
        return CohortSize(1, f"one at a time, since a step of one takes {alone:.1f} s already")
    best, seconds, size = 1, alone, min(FIRST, most)
    while size > 1:
        if (short := bench.lacks(size)) is not None:
            why = f", more would take {short}"
            break
        found = bench.together(size) / size
        if found > BETTER * seconds and size > FIRST:
            why = ", more gain little"
            break
        if found < seconds:
            best, seconds = size, found
        if size == most:
            why = ""
            break
        size = min(GROWTH * size, most)
    told = f"{1e3 * seconds:.2g} ms per step and trial, alone {1e3 * alone:.2g} ms"
    if best == 1 or seconds > WORTH * alone:
        return CohortSize(1, f"one at a time, since trials at once would gain little ({told})")
    return CohortSize(best, f"{best} at once ({told}{why})")


class StepTimer:
    """Measures the time and memory of training steps of one problem."""

    def __init__(self, problem: Problem, seed: int, device: torch.device, workers: int) -> None:
        self.problem, self.seed, self.device = problem, seed, device
        self._tasks = [task.name for task in problem.tasks]
        self._boundary = Boundary()
        self._free = MEMORY_SHARE * _free_memory(device) / max(1, workers)
        self._each = 0.0  # bytes per trial, as measured so far

    def alone(self) -> float:
        """Return the seconds per step of one trial."""
        parts, balancer = self._parts(), Equal(self._tasks)

        def step(batch: Any) -> None:
            parts.updates.zero_grad()
            balancer.backward(losses_of(self.problem, parts.model, batch, self.device))
            parts.updates.step_optimizers()  # for as many steps as it takes, beyond a schedule's end

        return self._timed(parts, step)

    def together(self, size: int) -> float:
        """Return the seconds per step of ``size`` stacked trials."""
        start = self._used()
        parts = self._parts()
        network = StackedNetwork(self.problem, parts, size)
        stack = Stack([Equal(self._tasks) for _ in range(size)], network.shared)

        def step(batch: Any) -> None:
            network.updates.zero_grad()
            stack.backward(network.losses(batch))
            network.updates.step_optimizers()

        seconds = self._timed(parts, step)
        self._each = max(self._each, (self._used() - start) / size)
        return seconds

    def lacks(self, size: int) -> str | None:
        """Describe the memory that ``size`` trials would need; ``None`` if there is enough."""
        wanted = size * self._each
        return f"{wanted / 2**30:.1f} GB of {self._free / 2**30:.1f} GB" if wanted > self._free else None

    def _parts(self) -> Parts:
        parts = Parts.build(self.problem, self.seed, self.device)
        self._boundary.end_fork()
        parts.model.train()
        return parts

    def _timed(self, parts: Parts, step: Callable[[Any], None]) -> float:
        """Return the minimum over some steps, because other load on the machine can only add time."""
        batch = to_device(next(iter(parts.order.epoch())), self.device)
        taken: list[float] = []
        begin = time.perf_counter()
        while len(taken) < 3 or time.perf_counter() - begin < MEASURE_SECONDS:
            start = time.perf_counter()
            step(batch)
            self._boundary.end_fork()
            self._wait()
            taken.append(time.perf_counter() - start)
            if taken[0] > LONG_STEP and len(taken) > 1:
                break
        return min(taken[1:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _used(self) -> float:
        """Return the peak memory of the process so far, in bytes."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _free_memory(device: torch.device) -> float:
    """Return the free bytes of the device, or of this node; infinity if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable")).split()[1])
    return float("inf")
