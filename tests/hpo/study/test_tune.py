"""Studies that tune arguments of the problem along with the weights."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from benchmarks.tuned_winner import recommendation, run, study
from hpo.compare import compare
from hpo.core.arm import Arm
from hpo.core.errors import ProblemError, StudyError
from hpo.core.trial import PlannedTrial
from hpo.problems import load_problem
from hpo.report import ReportData, answers
from hpo.report.sections import sections
from hpo.report.tables import all_trials
from hpo.study.argument_sets import OWN, argument_sets
from hpo.study.phases import PHASES
from hpo.study.plan import Plan
from hpo.study.plan_table import arguments_table
from hpo.study.schedule import Schedule
from hpo.study.spec import Study as Spec
from tests.helpers import tuned_problems
from tests.helpers.plans import sizes
from tests.helpers.report_builder import Builder
from tests.helpers.studies import Study, identities, of_method
from tests.helpers.tuned_problems import Tunable

RATES = {"learning_rate": {"log": [1e-3, 1.0]}, "trials": 3}


def tuned(**fields: Any) -> Plan:
    content = {
        "name": "tuned",
        "problem": {"name": "tests.helpers.tuned_problems:Tunable"},
        "static": {"points": 7, "center": "equal"},
        "shortlist": "off",
        "gradnorm": {"recipes": ["direct"], "trials": 3},
        "seeds": 2,
        "tune": RATES,
    }
    spec = Spec.model_validate(content | fields)
    return Plan(spec, Tunable(), sets=argument_sets(spec, Tunable()))


def finished(plan: Plan, slots: int = 3) -> tuple[Study, Schedule]:
    one = Study(plan)
    schedule = one.schedule()
    one.drive(schedule, slots, order=random.Random(0))
    return one, schedule


def rate_of(planned: PlannedTrial) -> float:
    return float(planned.config.arguments.get("learning_rate", 0.02))


def test_the_sets_are_the_problems_own_and_those_of_the_range() -> None:
    plan = tuned()
    assert [found.values for found in plan.sets.values()] == [{"learning_rate": x} for x in (0.02, 0.001, 1.0)]
    assert arguments_table(plan)["learning_rate"].tolist() == [0.02, 0.001, 1.0]
    assert plan.arguments(OWN) == {}
    assert plan.arguments("learning_rate=1") == {"learning_rate": 1.0}
    assert plan.label_of({"learning_rate": 1.0}) == "learning_rate=1"
    assert plan.label_of({"learning_rate": 2.0}) is None


def test_every_confirmed_arm_and_single_task_network_is_trained_with_every_set() -> None:
    _, schedule = finished(tuned())
    search = [p for p in schedule.planned() if p.is_search]
    confirmed = {Arm.parse(p.arm).base.key for p in schedule.planned() if not p.is_search}
    rates = {arm: {rate_of(p) for p in search if Arm.parse(p.arm).base.key == arm} for arm in confirmed}
    assert rates == {arm: {0.02, 0.001, 1.0} for arm in confirmed}


def test_an_arm_is_confirmed_with_the_problems_own_arguments_and_with_its_best() -> None:
    plan = tuned()
    _, schedule = finished(plan)
    found = compare(schedule.table(), plan.scoring, 1.0, sets={k: one.values for k, one in plan.sets.items()})
    confirmed = Counter(p.arm for p in schedule.planned() if not p.is_search)
    assert set(confirmed.values()) == {2}
    for arm in {Arm.parse(key).base.key for key in confirmed} - {f"single_task/{task}" for task in plan.tasks}:
        label = found.tuning.best_set(arm)
        own = found.tuning.scores[found.tuning.scores["arm"] == arm]
        assert own.loc[own["best"], "score"].item() == own["score"].min()
        assert {key for key in confirmed if Arm.parse(key).base.key == arm} == {
            arm,
            arm + (f"@{label}" if label else ""),
        }


def test_on_several_seeds_an_arm_counts_with_the_set_of_the_best_mean() -> None:
    plan = tuned(tune=RATES | {"seeds": 3})
    _, schedule = finished(plan)
    trials = [p for p in schedule.planned() if p.phase == "tune"]
    assert {p.config.seed for p in trials} == {0, plan.study.race_seed(1), plan.study.race_seed(2)}
    assert not any(p.config.test for p in trials)
    found = compare(schedule.table(), plan.scoring, 1.0, sets={k: one.values for k, one in plan.sets.items()})
    scores = found.tuning.scores
    assert set(scores["seeds"]) == {3}
    assert (scores["low"] < scores["score"]).all()
    assert (scores["score"] < scores["high"]).all()
    confirmed = {p.arm for p in schedule.planned() if not p.is_search}
    for arm in scores["arm"].unique():
        label = found.tuning.best_set(arm)
        assert {key for key in confirmed if Arm.parse(key).base.key == arm} == {arm, arm + f"@{label}" * bool(label)}
    assert schedule.size >= len({p.config.identity for p in schedule.planned()})


def test_static_points_and_the_sweep_use_all_sets() -> None:
    _, schedule = finished(tuned())
    points = Counter(rate_of(p) for p in schedule.planned() if p.phase == "static" and p.arm != "equal")
    assert set(points.values()) == {2}
    assert len(points) == 3
    runs = {rate_of(p) for p in schedule.planned() if p.phase == "sweep"}
    assert len(runs) > 1


def test_trials_with_the_problems_own_arguments_are_those_of_an_untuned_study() -> None:
    plain = {p.config.identity for p in finished(tuned(tune="off"))[1].planned() if p.arm == "equal"}
    own = {p.config.identity for p in finished(tuned())[1].planned() if p.arm == "equal"}
    assert plain == own


def test_every_trial_that_chooses_arguments_counts_in_the_cost_and_in_the_table_of_all_trials() -> None:
    plan = tuned(tune=RATES | {"seeds": 3})
    _, schedule = finished(plan)
    values = {label: one.values for label, one in plan.sets.items()}
    found = compare(schedule.table(), plan.scoring, 1.0, sets=values)
    chosen = {p.config.identity for p in schedule.planned() if p.phase == "tune"}
    cost = found.cost.set_index("way")
    assert cost.loc["tuning of arguments", "trials"] == len(chosen)
    data = replace(Builder().data(), comparison=found, unfinished=pd.DataFrame())
    assert set(all_trials(data)["identity"]) == set(schedule.table()["identity"])


@pytest.mark.parametrize(("stop", "seeds"), [(3, 1), (20, 1), (45, 1), (45, 2)])
def test_a_killed_study_goes_on_to_the_same_trials(stop: int, seeds: int) -> None:
    whole, schedule = finished(tuned(tune=RATES | {"seeds": seeds}))
    part = Study(tuned(tune=RATES | {"seeds": seeds}))
    part.drive(part.schedule(), 3, stop=stop, order=random.Random(1))
    part.drive(again := part.schedule(), 2, order=random.Random(2))
    assert again.is_complete
    assert set(again.results) == set(schedule.results)
    assert len(set(identities(whole.handed))) == len(whole.handed) <= schedule.size


@pytest.mark.parametrize("stop", [0, 5, 25, 50])
def test_an_unfinished_study_is_compared_as_far_as_it_goes(stop: int) -> None:
    part = Study(tuned())
    part.drive(schedule := part.schedule(), 3, stop=stop, order=random.Random(1))
    sets = {label: found.values for label, found in part.plan.sets.items()}
    found = compare(schedule.table(), part.plan.scoring, 1.0, sets=sets)
    assert found.tuning.common.kind == "none"
    data = ReportData("tuned", found, part.plan.metrics, {}, {}, {})
    assert answers(found)
    assert all(section.tables is not None for section in sections(data))


def test_trials_of_one_cohort_have_the_same_arguments() -> None:
    schedule = Study(tuned()).schedule()
    while isinstance(cohort := schedule.next_cohort(8, 1), list):
        assert len({str(planned.config.arguments) for planned in cohort}) == 1


def test_a_diverged_set_is_never_an_arms_best() -> None:
    plan = tuned()
    one = Study(plan, lambda config: "diverged" if config.arguments.get("learning_rate") == 1.0 else "finished")
    one.drive(schedule := one.schedule(), 3)
    assert schedule.is_complete
    assert not any(rate_of(p) == 1.0 for p in schedule.planned() if not p.is_search)


def test_a_study_whose_references_all_diverge_ends() -> None:
    one = Study(tuned(), of_method("single_task"))
    one.drive(schedule := one.schedule(), 3)
    assert schedule.is_complete


def test_a_refinement_starts_from_the_best_arguments() -> None:
    plan = tuned(refine={"trials": 4, "sampler": "random"})
    _, schedule = finished(plan)
    refined = [p for p in schedule.planned() if p.phase == "refine" and Arm.parse(p.arm).kind == "refined"]
    assert len({rate_of(p) for p in refined}) == 1


def test_without_tuning_the_phase_is_empty() -> None:
    assert sizes(tuned(tune="off"))["tune"] == (0, 0)
    assert list(PHASES)[-2:] == ["tune", "confirm"]


def test_tuning_changes_the_winner_where_the_best_rate_depends_on_the_weights() -> None:
    """`python -m benchmarks.tuned_winner` does it for 100 seeds."""
    fixed, free = run(study(7, tunes=False)), run(study(7, tunes=True))
    assert fixed.verdict.kind == "better"
    assert free.verdict.kind == "worse"
    assert free.tuning.common.kind == "better"
    ratio, rate = recommendation(free)
    assert 10 / 2 < ratio < 10 * 2
    assert 0.55 / 2 < rate < 0.55 * 2
    assert recommendation(fixed)[1] == 0.2


def of(problem: str, **tune: Any) -> list[Any]:
    name = f"tests.helpers.tuned_problems:{problem}"
    spec = Spec.model_validate({"name": "x", "problem": name, "tune": tune})
    return argument_sets(spec, getattr(tuned_problems, problem)())


def test_each_set_has_the_hash_of_its_problem() -> None:
    found = of("OwnData", learning_rate=[0.1, 0.2], trials=3)
    assert len({one.data_hash for one in found}) == 3  # the default hash is of all attributes


def test_a_worker_finds_the_problem_and_the_data_that_a_trial_names() -> None:
    name = "tests.helpers.tuned_problems:OwnData"
    spec = Spec.model_validate({"name": "x", "problem": name, "tune": {"learning_rate": [0.1, 0.2], "trials": 3}})
    problem = tuned_problems.OwnData()
    plan = Plan(spec, problem, sets=argument_sets(spec, problem))
    rates = []
    for label in plan.sets:
        config = plan.search_trial("tune", plan.plain_arms()[0].with_arguments(label)).config
        found = load_problem(config.problem, config.arguments)
        assert found.data_hash() == config.data_hash
        rates.append(vars(found)["learning_rate"])
    assert rates == [0.02, 0.1, 0.2]


@pytest.mark.parametrize(
    ("problem", "tune", "fault"),
    [
        ("OwnData", {"rows": [2, 3]}, "tune.rows: expected an argument that leaves the data as they are, got 2"),
        ("OwnHash", {"rows": [2, 3]}, "tune.rows: expected an argument that leaves the data as they are, got 2"),
        ("MoreTasks", {"more": [1, 2]}, "tune.more: expected an argument that leaves the tasks as they are, got 1"),
        (
            "MoreTasks",
            {"epochs": [1, 2]},
            "tune.epochs: expected an argument that leaves the epochs as they are, got 1",
        ),
        (
            "Tunable",
            {"rate": [1, 2]},
            "tune: expected an argument of problem 'tests.helpers.tuned_problems:Tunable' that has a default "
            "(learning_rate, width), got 'rate'",
        ),
    ],
)
def test_an_argument_that_cannot_be_tuned(problem: str, tune: dict[str, Any], fault: str) -> None:
    with pytest.raises(StudyError) as error:
        of(problem, **tune)
    assert str(error.value) == fault


def test_a_value_that_the_problem_refuses() -> None:
    with pytest.raises(ProblemError, match="learning_rate must be at most 1"):
        of("Refusing", learning_rate=[0.5, 2.0])
