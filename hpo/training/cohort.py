"""Train trials of one seed at once, with stacked parameters; where that cannot be, one after another. Torch alone.

The trials of a cohort have the same initial network and the same batches. One forward and one backward pass serves
all, and what a trial records, writes as its checkpoint and ends with is what it would have alone, to within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hpo.core.text import message, one_line
from hpo.core.trial import EpochReport, TrialConfig, TrialResult
from hpo.core.user_calls import Boundary
from hpo.problems.base import Problem
from hpo.training.checkpoints import Checkpoints
from hpo.training.cohort_loop import CohortLoop
from hpo.training.cohort_members import CohortCallbacks, CohortMember
from hpo.training.global_state import as_found
from hpo.training.one_by_one import one_by_one
from hpo.training.stacked_network import NotStackable


def run_cohort(
    configs: Sequence[TrialConfig],
    problem: Problem,
    device: torch.device,
    ear: CohortCallbacks,
    checkpoints: Sequence[Checkpoints | None] | None = None,
    together: bool = True,
    until: Sequence[int] | None = None,
) -> None:
    """Train trials to their ends.

    Those of one seed and length go on together, if their checkpoints are after the same step. A network that cannot
    be stacked, or that fails while it is, is trained one trial after another, each from its own checkpoint if it has
    one; where the memory did not do, two halves are tried first.

    Args:
        configs: what to train.
        problem: the instance that the configs name.
        device: where to train.
        ear: told how it goes.
        checkpoints: for each config, where to look for a checkpoint and to write more.
        together: ``False`` trains one after another.
        until: for each config, the epochs after which it comes back ``paused``; ``None`` trains all to the end.
    """
    kept = checkpoints or [None] * len(configs)
    ends = until or [config.epochs for config in configs]
    places = [CohortMember(*one) for one in zip(configs, kept, ends, strict=True)]
    if not together or len(places) == 1:
        one_by_one(places, problem, device, ear)
        return
    _read_states(places)
    alike: dict[tuple[int, int, bool, int, int], list[CohortMember]] = {}
    for place in places:
        config = place.config
        alike.setdefault((config.seed, config.epochs, config.test, place.steps, place.until), []).append(place)
    for group in alike.values():
        _train(group, problem, device, ear)


def _read_states(places: Sequence[CohortMember]) -> None:
    """Find the newest checkpoint of each trial; of two that each may have, the one that most share.

    A worker that was killed while it wrote those of all its trials has left some a step further than others.
    """
    for place in places:
        place.state = place.checkpoints.latest() if place.checkpoints else None
    common = min(place.steps for place in places)
    for place in places:
        if place.checkpoints and place.steps > common:
            earlier = place.checkpoints.latest(at_most=common)
            if earlier is not None and earlier["steps"] == common:
                place.state = earlier


def _train(places: Sequence[CohortMember], problem: Problem, device: torch.device, ear: CohortCallbacks) -> None:
    """Train trials at once; if that is not to be, otherwise."""
    if len(places) == 1:
        one_by_one(places, problem, device, ear)
        return
    boundary = Boundary()
    cohort = CohortLoop(places, problem, device, _Relay(ear, boundary), boundary)
    why: BaseException | None = None
    with as_found() as state:
        try:
            cohort.run()
        except BaseException as error:  # of the user's code, of vmap, of the memory: alone each gets its own answer
            boundary.pass_on(error)
            why = error.with_traceback(None)  # whose frames hold the cohort
        boundary.end_fork()
    left = [member.place for member in cohort.members]
    cohort.close(state.alarms)
    if why is None:
        return
    del cohort  # its memory is wanted
    if len(left) > 2 and _is_out_of_memory(why):
        ear.alone(len(left), f"the memory does not do for {len(left)} at once, half of them are tried")
        for half in (left[: len(left) // 2], left[len(left) // 2 :]):
            kept = [place.checkpoints for place in half]
            run_cohort([p.config for p in half], problem, device, ear, kept, until=[p.until for p in half])
        return
    ear.alone(len(left), "; ".join([_line(why), *state.alarms]))
    one_by_one(left, problem, device, ear)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in message(
        error, 10_000
    )


def _line(error: BaseException) -> str:
    return message(error) if isinstance(error, NotStackable) else one_line(error)


class _Relay:
    """A `CohortCallbacks` on our side of the boundary to the user's code."""

    def __init__(self, ear: CohortCallbacks, boundary: Boundary) -> None:
        self._ear, self._boundary = ear, boundary

    def resumed(self, config: TrialConfig, steps: int) -> None:
        self._boundary.tell(self._ear.resumed, config, steps)

    def epochs(self, reports: Sequence[tuple[TrialConfig, EpochReport]]) -> None:
        self._boundary.tell(self._ear.epochs, reports)

    def ended(self, config: TrialConfig, result: TrialResult) -> None:
        self._boundary.tell(self._ear.ended, config, result)

    def alone(self, count: int, why: str) -> None:
        self._boundary.tell(self._ear.alone, count, why)
