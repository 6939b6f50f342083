"""The refinement: proposals around the best weights so far, the same whatever is killed, and better than chance."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest

from hpo.core.errors import StudyError
from hpo.core.trial import PlannedTrial
from hpo.study.phases.refine import DUEL, Refine, check_sampler
from hpo.study.schedule import Schedule
from tests.helpers.small_problem import TASKS
from tests.helpers.studies import BEST, Study, log_weights, of_method, small


def study(**fields: Any) -> Study:
    """A study of shortlist and refinement; proposals at random, which take no time."""
    content = {"shortlist": {}, "refine": {"trials": 8, "sampler": "random"}, "static": "off", "gradnorm": "off"}
    return Study(small(**(content | {"confirm": {}} | fields)))


def finished(one: Study, slots: int = 3, seed: int = 0) -> Schedule:
    schedule = one.schedule()
    one.drive(schedule, slots, order=random.Random(seed))
    return schedule


def phase_of(schedule: Schedule) -> Refine:
    (found,) = (phase for phase in schedule.phases if isinstance(phase, Refine))
    return found


def proposed(schedule: Schedule) -> list[PlannedTrial]:
    """The points, without those of the race."""
    return [p for p in phase_of(schedule).trials() if p.config.seed == schedule.plan.study.seed]


@pytest.mark.parametrize(("slots", "kill"), [(1, 18), (4, 5), (50, 18), (50, 24)])
def test_a_kill_changes_no_proposal(slots: int, kill: int) -> None:
    whole = finished(study())
    one = study()
    one.drive(one.schedule(), slots, stop=kill, order=random.Random(kill))
    again = finished(one, slots, kill + 1)
    assert [p.config for p in phase_of(again).trials()] == [p.config for p in phase_of(whole).trials()]
    assert {p.config.identity for p in again.planned()} == {p.config.identity for p in whole.planned()}


@pytest.mark.parametrize("sampler", ["optuna.samplers:TPESampler", "tests.search_spaces.test_refinement:tune_search"])
def test_a_sampler_of_the_user_s_proposes_the_same_after_a_kill(sampler: str) -> None:
    settings = {"refine": {"trials": 4, "sampler": sampler}}
    whole, one = finished(study(**settings)), study(**settings)
    one.drive(one.schedule(), 4, stop=20, order=random.Random(1))
    assert [p.config for p in proposed(finished(one))] == [p.config for p in proposed(whole)]
    assert len(proposed(whole)) == 4


class Failing(optuna.samplers.RandomSampler):
    """Fails once it is asked."""

    def sample_independent(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError("no licence")


def test_a_sampler_that_fails_is_named() -> None:
    failing = "tests.hpo.study.test_refine:Failing"
    with pytest.raises(StudyError, match=f"^refine.sampler: {failing} cannot propose weights: "):
        finished(study(refine={"trials": 4, "sampler": failing}))


def test_a_sampler_that_cannot_propose_is_found_before_anything_runs() -> None:
    name = "tests.search_spaces.test_refinement:tune_search_that_takes_no_scores"
    with pytest.raises(StudyError, match=f"^refine.sampler: {name} cannot propose weights: .*add_evaluated_point"):
        check_sampler(study(refine={"trials": 4, "sampler": name}).plan)


def test_points_lie_around_what_the_shortlist_has_chosen() -> None:
    schedule = finished(study(refine={"trials": 4, "sampler": "random", "span": 1.5}))
    shortlisted = next(phase for phase in schedule.phases if phase.name == "shortlist").provisional()[0]
    centre = np.log([shortlisted.settings["weights"][task] for task in TASKS])
    for planned in proposed(schedule):
        away = np.log([planned.config.settings["weights"][task] for task in TASKS]) - centre
        assert np.abs(away - away.mean()).max() <= 2 * np.log(1.5)
        assert np.abs(away - away.mean()).max() > 0


def test_it_stops_early_when_two_batches_bring_nothing_better() -> None:
    schedule = finished(study(refine={"trials": 400, "sampler": "random", "span": 100.0}))
    assert len(proposed(schedule)) < 100


@pytest.mark.parametrize("before", [{}, {"shortlist": "off", "static": {"points": 6}}])
def test_its_best_points_race_against_the_centre(before: dict[str, Any]) -> None:
    schedule = finished(study(**before))
    raced = [p for p in phase_of(schedule).trials() if p.config.seed == schedule.plan.study.race_seed(1)]
    (centre,) = (p for p in raced if not p.arm.startswith("refined/"))
    assert len(raced) == 4
    searched = {p.config.identity for p in schedule.planned() if p.config.seed == schedule.plan.study.seed}
    again = replace(centre.config, seed=schedule.plan.study.seed)
    assert again.identity in searched  # else the two arms of the race would be of unlike numbers of seeds


def test_a_point_that_leads_meets_the_centre_on_two_more_seeds_and_is_judged_without_the_search_seed() -> None:
    schedule = finished(study(shortlist="off", static={"points": 6}, refine={"trials": 12, "sampler": "tpe"}))
    phase, spec = phase_of(schedule), schedule.plan.study
    duel = {place: {p.arm for p in phase.trials() if p.config.seed == spec.race_seed(place)} for place in DUEL}
    assert duel[3] == duel[4]
    assert len(duel[3]) == 2
    (winner,) = (candidate.arm.key for candidate in phase.chosen(pd.DataFrame()))
    assert winner in duel[3]
    scores = phase._race().drop(index=spec.seed)[sorted(duel[3])]
    assert winner == scores.mean().idxmin()
    assert len(scores) == 4


def test_a_model_finds_better_weights_than_the_search_before_it() -> None:
    one = study(shortlist="off", static={"points": 6}, refine={"trials": 12, "sampler": "tpe"})
    schedule = finished(one)

    def off(planned: PlannedTrial) -> float:
        return float(np.linalg.norm(log_weights(planned.config) - BEST))

    static = [p for p in schedule.planned() if p.phase == "static"]
    assert min(map(off, proposed(schedule))) < 0.7 * min(map(off, static))


def test_its_winner_is_confirmed() -> None:
    schedule = finished(study(shortlist="off", static={"points": 6}, refine={"trials": 12, "sampler": "tpe"}))
    confirmed = {p.arm for p in schedule.planned() if p.phase == "confirm"}
    assert any(arm.startswith("refined/") for arm in confirmed)


def test_a_study_in_which_all_diverges_ends() -> None:
    one = study()
    one.fate = of_method("static", "equal", "frozen")
    assert finished(one).is_complete
    one = study()
    one.fate = of_method("single_task")
    assert finished(one).is_complete
