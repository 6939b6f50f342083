"""The scores that are written with a trial's result are those of the study's end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpo.compare import compare
from hpo.core.trial import EpochMetrics, PlannedTrial, TrialConfig, TrialResult
from hpo.launch.run_scores import Scores, scores_of, scores_so_far
from hpo.study.argument_sets import argument_sets
from hpo.study.plan import Plan
from hpo.study.schedule import Schedule
from tests.helpers.plans import make_plan
from tests.helpers.small_problem import TASKS
from tests.helpers.studies import small, train
from tests.helpers.tuned_problems import Tunable


def tuned() -> Plan:
    problem = {"name": "tests.helpers.tuned_problems:Tunable"}
    rates = {"learning_rate": {"log": [1e-3, 1.0]}, "trials": 3}
    spec = make_plan(problem=problem, tune=rates, gradnorm={"trials": 3}).study
    return Plan(spec, Tunable(), sets=argument_sets(spec, Tunable()))


def fate(config: TrialConfig) -> str:
    bad = config.method == "static" and int(config.identity, 16) % 4 == 0
    return "diverged" if bad else "finished"


def ended(config: TrialConfig) -> TrialResult:
    """Return a result, with two epochs of which either may be the better one if the study takes the best."""
    result = train(config, fate)
    if config.select == "last" or not result.validation:
        return result
    first = {task: value * (0.98 if task == TASKS[0] else 1.001) for task, value in result.validation.items()}
    epochs = [EpochMetrics(1, first, result.test), EpochMetrics(2, result.validation, result.test)]
    return replace(result, best_epochs=epochs[1:] if config.method == "single_task" else epochs)


def run(plan: Plan) -> tuple[Schedule, Scores]:
    """Run a study trial by trial; return it with the scores that were known as each trial ended."""
    schedule, known = Schedule(plan), Scores()
    while isinstance(planned := schedule.next(), PlannedTrial):
        schedule.finished(planned.config.identity, ended(planned.config))
        known |= scores_so_far(schedule, [planned])
    return schedule, known


@pytest.mark.parametrize(
    "plan",
    [
        small(),
        small(select="best"),
        small(priorities={TASKS[0]: 3, TASKS[1]: 0}, limits={TASKS[2]: 1.0}),
        small(shortlist={"seeds": 3}),
        tuned(),
    ],
    ids=["plain", "best epochs", "priorities and limits", "raced shortlist", "tuned"],
)
def test_they_are_those_of_the_end(plan: Plan) -> None:
    schedule, known = run(plan)
    final = scores_of(compare(schedule.table(), plan.scoring, 1.0))
    for identity, scores in known.items():
        assert scores == pytest.approx(final[identity], rel=1e-9)
    late = {p.config.identity for p in schedule.planned() if not p.is_search or p.phase == "references"}
    assert final.keys() - known.keys() <= late
    assert known


def test_there_are_none_before_the_last_reference_has_ended() -> None:
    schedule = Schedule(small())
    first = [schedule.next() for _ in range(8)]
    trials = [planned for planned in first if isinstance(planned, PlannedTrial)]
    *early, last = sorted(trials, key=lambda planned: planned.phase == "references")
    assert last.phase == "references"
    for planned in early:
        schedule.finished(planned.config.identity, ended(planned.config))
    assert scores_so_far(schedule, trials) == {}
    schedule.finished(last.config.identity, ended(last.config))
    assert scores_so_far(schedule, trials)
