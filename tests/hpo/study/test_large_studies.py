"""A trial costs the driver the same in a study of any size. Counted, not timed: bytecode instructions of Python."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from hpo.core.trial import TrialResult, TrialStatus
from hpo.study.halving import Halving
from hpo.study.schedule import Next, Schedule
from tests.helpers.studies import Study, small, train

FEW, MANY = 40, 400  # static points
PAUSED = TrialResult(TrialStatus.PAUSED)
BEFORE, COUNTED = 10, 20  # trials that end before the count begins, and that it counts


class Instructions:
    """The number of bytecode instructions that a block has run."""

    def __init__(self) -> None:
        self.count = 0

    def trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self.count += event == "opcode"
        return self.trace


@contextmanager
def counted() -> Iterator[Instructions]:
    found, before = Instructions(), sys.gettrace()
    sys.settrace(found.trace)
    try:
        yield found
    finally:
        sys.settrace(before)


def schedule_of(points: int, **options: Any) -> Schedule:
    static = {"design": "dirichlet", "points": points}
    return Study(small(static=static, gradnorm="off", **options)).schedule()


def advance(schedule: Schedule, trials: int, most: int) -> None:
    """Hand out and end trials in cohorts."""
    for _ in range(trials // most):
        cohort = schedule.next_cohort(most, 4)
        assert not isinstance(cohort, Next)
        for planned in cohort:
            schedule.begun(planned.config.identity)
        for planned in cohort:
            schedule.finished(planned.config.identity, train(planned.config))


@pytest.mark.parametrize("most", [1, 5])
def test_handing_out_and_ending_a_trial_costs_the_same_in_a_study_of_any_size(most: int) -> None:
    costs = []
    for points in (FEW, MANY):
        schedule = schedule_of(points)
        advance(schedule, BEFORE, most)
        with counted() as instructions:
            advance(schedule, COUNTED, most)
        costs.append(instructions.count)
    assert costs[1] <= 1.1 * costs[0]


def test_a_look_at_the_progress_costs_the_same_in_a_study_of_any_size() -> None:
    costs = []
    for points in (FEW, MANY):
        schedule = schedule_of(points)
        advance(schedule, points // 2, 1)
        with counted() as instructions:
            counts = schedule.progress()
        assert counts["static"]["total"] == points
        costs.append(instructions.count)
    assert costs[0] == costs[1]


def test_a_trial_that_cannot_be_stacked_costs_the_same_in_a_study_of_any_size() -> None:
    costs = []
    for points in (FEW, MANY):
        schedule = schedule_of(points, references=["single_task", "equal", "imtl_g"])
        with counted() as instructions:
            cohort = schedule.next_cohort(16, 1)
            while not isinstance(cohort, Next) and cohort[0].config.method != "imtl_g":
                cohort = schedule.next_cohort(16, 1)
                instructions.count = 0
        costs.append(instructions.count)
    assert costs[1] <= 1.1 * costs[0]


def test_looking_for_the_end_of_a_rung_costs_the_same_for_any_number_of_trials() -> None:
    costs = []
    for points in (FEW, MANY):
        identities = [f"t{k}" for k in range(points)]
        halving = Halving(identities, 9, 3, 1)
        for identity in identities[:BEFORE]:
            halving.pause(identity, PAUSED)
        with counted() as instructions:
            for identity in identities[BEFORE : BEFORE + COUNTED]:
                halving.pause(identity, PAUSED)
                assert halving.at_rung({}) == {}
        costs.append(instructions.count)
        for identity in identities[BEFORE + COUNTED :]:
            halving.pause(identity, PAUSED)
        assert list(halving.at_rung({})) == identities
    assert costs[0] == costs[1]
