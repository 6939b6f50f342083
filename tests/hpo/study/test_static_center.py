"""Static points around the first-step weights, which a trial must find first."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from hpo.core.arm import Arm
from hpo.core.trial import PlannedTrial
from hpo.study.earlier_versions import as_begun
from hpo.study.phases.static_search import StaticSearch
from hpo.study.plan_table import points_table
from hpo.study.schedule import Schedule
from search_spaces import region
from tests.helpers.plans import sizes
from tests.helpers.small_problem import TASKS
from tests.helpers.studies import Study, of_method, small

CENTERED = {"points": 5, "center": "first_step"}
RULES = ("frozen/loss", "frozen/gradient")


def study(**fields: Any) -> Study:
    return Study(small(**({"static": CENTERED, "gradnorm": "off", "confirm": {"top_static": 1}} | fields)))


def phase_of(schedule: Schedule) -> StaticSearch:
    (found,) = (phase for phase in schedule.phases if isinstance(phase, StaticSearch))
    return found


def points_of(schedule: Schedule) -> list[PlannedTrial]:
    return [planned for planned in phase_of(schedule).trials() if Arm.parse(planned.arm).kind == "static"]


def finished(one: Study, slots: int = 3, seed: int = 0) -> Schedule:
    schedule = one.schedule()
    one.drive(schedule, slots, order=random.Random(seed))
    return schedule


@pytest.mark.parametrize("shortlist", ["off", {"seeds": 1}])
def test_the_points_lie_around_the_weights_of_both_rules(shortlist: Any) -> None:
    one = study(shortlist=shortlist)
    assert points_of(one.schedule()) == []
    schedule = finished(one)
    found = {p.arm: p for p in schedule.planned() if p.arm in RULES and p.config.seed == one.plan.study.seed}
    assert found["frozen/loss"].phase == ("static" if shortlist == "off" else "shortlist")
    known = [schedule.results[found[rule].config.identity].averages["geometric"] for rule in RULES]
    center, ratio = region([[w[task] for task in TASKS] for w in known])
    rows = np.array([[p.config.settings["weights"][task] for task in TASKS] for p in points_of(schedule)])
    assert len(rows) == CENTERED["points"] - 1
    assert rows[0] == pytest.approx(center, rel=1e-5)
    spread = rows / center
    assert (spread.max(axis=1) / spread.min(axis=1)).max() == pytest.approx(ratio, rel=1e-4)


def test_the_phase_has_as_many_trials_as_it_said() -> None:
    for fields in ({}, {"shortlist": {}}, {"epochs": 4, "search": {"epochs": 2, "full": 3}}):
        one = study(**fields)
        said = sizes(one.plan)["static"]
        assert said == (len(phase_of(finished(one)).trials()),) * 2


def test_neither_order_nor_a_kill_changes_the_points() -> None:
    whole = [p.config.identity for p in points_of(finished(study()))]
    for seed in range(3):
        one = study()
        one.drive(one.schedule(), 2, stop=3 + 2 * seed, order=random.Random(seed))
        assert [p.config.identity for p in points_of(finished(one, slots=1 + seed))] == whole


def test_where_no_rule_gives_weights_the_points_lie_around_equal_ones() -> None:
    one = study()
    one.fate = of_method("frozen")
    schedule = finished(one)
    plain = study(static={"points": 5, "center": "equal"})
    assert [p.config.identity for p in points_of(schedule)] == [
        p.config.identity for p in points_of(plain.schedule())
    ]


def test_halving_continues_the_best_points() -> None:
    one = study(static=CENTERED | {"points": 9}, epochs=9, search={"halving": 3})
    schedule = finished(one)
    assert schedule.is_complete


def test_it_is_the_default_where_no_ratio_is_given() -> None:
    spec = type(small().study.static)
    assert spec().from_first_step
    assert not spec(ratio=10.0).from_first_step
    assert not spec(center="equal").from_first_step
    assert not spec(design="uniform").from_first_step
    assert not spec(explicit=[[1, 2, 3]]).from_first_step


def test_a_study_of_an_earlier_version_keeps_its_points() -> None:
    plan = study().plan
    earlier = as_begun(plan.of(plan.study.model_copy(update={"static": type(plan.study.static)(points=5)})), "0.1.0")
    equal = small(static={"points": 5, "center": "equal"})
    assert points_table(earlier).equals(points_table(equal))
    assert len(points_table(plan)) == 1  # equal weights; the others are not known beforehand
