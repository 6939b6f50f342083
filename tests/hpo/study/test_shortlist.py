"""The shortlist: an answer from arms that need no search, and a race of the close ones over seeds."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo.compare import compare
from hpo.compare.race import leader, survivors
from hpo.compare.shortlist import shortlist
from hpo.core.arm import FIXED, Arm
from hpo.core.trial import PlannedTrial
from hpo.report import answers, headline
from hpo.report.arm_labels import arm_label
from hpo.report.figures import FIGURES
from hpo.report.report_data import ReportData
from hpo.report.sections import sections
from hpo.report.tables import all_trials, arms_table, cost_table
from hpo.study.phases.shortlist import NEAR, Shortlist
from hpo.study.schedule import Schedule
from tests.helpers.report_builder import Builder
from tests.helpers.studies import Study, fine, of_method, small

ARMS = ["gradnorm/direct/alpha=0", "gradnorm/direct/alpha=0.5", "frozen/loss", "frozen/gradient", "equal"]


def study(**fields: Any) -> Study:
    return Study(small(**({"shortlist": {}, "static": "off", "gradnorm": "off", "confirm": {}} | fields)))


def phase_of(schedule: Schedule) -> Shortlist:
    (found,) = (phase for phase in schedule.phases if isinstance(phase, Shortlist))
    return found


def trials_of(schedule: Schedule) -> list[PlannedTrial]:
    return list(phase_of(schedule).trials())


def finished(one: Study, slots: int = 3, seed: int = 0) -> Schedule:
    schedule = one.schedule()
    one.drive(schedule, slots, order=random.Random(seed))
    return schedule


def test_it_begins_with_gradnorm_first_step_weights_equal_weights_and_the_baseline() -> None:
    schedule = study(baseline={"near": 1, "far": 2, "tiny": 3}).schedule()
    assert [p.arm for p in trials_of(schedule)] == [*ARMS, "baseline"]


def test_equal_weights_as_the_baseline_are_one_arm() -> None:
    assert [p.arm for p in trials_of(study(baseline="equal").schedule())] == ARMS


def test_each_run_is_retrained_with_its_averages_once_the_first_arms_have_ended() -> None:
    one = study(shortlist={"alphas": [0.8, 1.2]})
    schedule = finished(one)
    trials = trials_of(schedule)
    retrained = {p.arm: p.config.settings["weights"] for p in trials if "gradnorm_static" in p.arm}
    runs = {p.arm: schedule.results[p.config.identity] for p in trials if p.arm.startswith("gradnorm/")}
    assert len(retrained) == 4
    for alpha in ("0.8", "1.2"):
        for average in ("geometric", "tail"):
            w = runs[f"gradnorm/direct/alpha={alpha}"].averages[average]
            assert retrained[f"gradnorm_static/direct/{average}/alpha={alpha}"] == pytest.approx(w, rel=1e-5)
    first = [p.arm for p in trials if p.config.seed == one.plan.study.seed]
    assert all("gradnorm_static" in arm for arm in first[-4:])


@pytest.mark.parametrize(("slots", "order"), [(1, 0), (3, 1), (50, 2)])
def test_an_average_near_the_weights_of_another_arm_is_not_trained(slots: int, order: int) -> None:
    one = study(shortlist={"alphas": [0.8, 0.79]})
    one.drive(schedule := one.schedule(), slots, order=random.Random(order))
    retrained = [p.arm for p in trials_of(schedule) if "gradnorm_static" in p.arm and p.config.seed == 0]
    assert retrained == ["gradnorm_static/direct/geometric/alpha=0.8", "gradnorm_static/direct/tail/alpha=0.8"]
    w = {p.arm: schedule.results[p.config.identity].averages["geometric"] for p in trials_of(schedule)}
    near = w["gradnorm/direct/alpha=0.79"]
    assert list(near.values()) == pytest.approx(list(w[retrained[0]].values()), rel=NEAR - 1)
    baseline = study(shortlist={"alphas": [0.8, 0.79]}, baseline=w[retrained[0]])
    baseline.drive(schedule := baseline.schedule(), slots, order=random.Random(order))
    assert [p.arm for p in trials_of(schedule) if "static" in p.arm and p.config.seed == 0] == retrained[1:]


def test_an_average_that_has_been_trained_stays_when_a_run_near_it_gets_its_result_later() -> None:
    one = study(shortlist={"alphas": [0.79, 0.8]})
    one.fate = lambda config: "failed" if config.settings.get("alpha") == 0.79 else "finished"
    before = {p.arm for p in finished(one).planned()}
    assert "gradnorm_static/direct/geometric/alpha=0.8" in before
    one.fate = fine
    trained = len(one.handed)
    assert {p.arm for p in finished(one).planned()} == before
    assert {p.config.settings.get("alpha") for p in one.handed[trained:]} == {0.79}


def test_a_study_that_an_earlier_version_has_finished_stays_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    one = study(shortlist={"alphas": [0.79, 0.8]})
    with monkeypatch.context() as earlier:
        earlier.setattr("hpo.study.phases.shortlist.NEAR", 1.0)
        earlier.setattr("hpo.study.phases.shortlist.MOST", 4)
        before = [(p.arm, p.config.identity) for p in finished(one).planned()]
    schedule = one.schedule()
    assert schedule.is_complete
    assert [(p.arm, p.config.identity) for p in schedule.planned()] == before
    raced = [p for p in trials_of(schedule) if p.config.seed == one.plan.study.race_seed(1)]
    assert len(raced) == 4


def test_the_close_ones_race_on_seeds_that_no_other_phase_uses() -> None:
    schedule = finished(study())
    raced: dict[int, list[str]] = {}
    for planned in trials_of(schedule):
        raced.setdefault(planned.config.seed, []).append(planned.arm)
    plan = schedule.plan
    first, *later = raced
    assert first == plan.study.seed
    assert later == [plan.study.race_seed(place) for place in range(1, len(later) + 1)]
    assert not set(later) & set(range(plan.study.seed, plan.study.seed + 1001))
    assert 2 <= len(raced[later[0]]) <= 3
    assert not any(planned.config.test for planned in trials_of(schedule))


def test_a_race_of_one_seed_ends_with_it() -> None:
    schedule = finished(study(shortlist={"seeds": 1}))
    assert {p.config.seed for p in trials_of(schedule)} == {schedule.plan.study.seed}
    assert phase_of(schedule).is_decided


def test_its_pick_goes_to_the_confirm_phase() -> None:
    schedule = finished(study())
    picked = phase_of(schedule).pick()
    assert Arm.parse(picked[0]).kind == "gradnorm_static"  # the made-up best weights are those of GradNorm
    confirmed = {p.arm for p in schedule.planned() if p.phase == "confirm"}
    assert set(picked) <= confirmed


@pytest.mark.parametrize(("slots", "kill"), [(1, 7), (4, 1), (4, 13), (50, 13), (50, 19)])
def test_a_kill_changes_no_trial_and_no_pick(slots: int, kill: int) -> None:
    whole = finished(study(gradnorm={"recipes": ["direct"], "trials": 5}))
    one = study(gradnorm={"recipes": ["direct"], "trials": 5})
    one.drive(one.schedule(), slots, stop=kill, order=random.Random(kill))
    again = finished(one, slots, kill + 1)
    assert phase_of(again).pick() == phase_of(whole).pick()
    assert {p.config.identity for p in again.planned()} == {p.config.identity for p in whole.planned()}


def test_a_sweep_of_the_same_recipe_runs_what_both_want_once() -> None:
    schedule = finished(study(gradnorm={"recipes": ["direct"], "trials": 3, "alpha": [0.0, 1.5]}))
    runs = [p for p in schedule.planned() if p.config.method == "gradnorm" and not p.config.test]
    both = {p.config.identity for p in runs if p.config.seed == schedule.plan.study.seed}
    alphas = {p.config.settings["alpha"] for p in runs}
    assert (len(both), alphas) == (3, {0.0, 0.5, 1.5})


def test_a_sweep_chooses_no_alpha_outside_its_range() -> None:
    schedule = finished(study(gradnorm={"recipes": ["direct"], "trials": 3, "alpha": [1.0, 1.5]}))
    for planned in schedule.planned():
        if planned.phase == "confirm" and planned.config.method == "gradnorm" and planned.arm not in ARMS:
            assert planned.config.settings["alpha"] >= 1.0


def test_without_a_reference_nothing_is_picked_and_the_study_ends() -> None:
    one = study()
    one.fate = of_method("single_task")
    schedule = finished(one)
    assert phase_of(schedule).pick() == []
    assert schedule.is_complete


def test_gradnorm_that_diverges_leaves_the_others() -> None:
    one = study()
    one.fate = of_method("gradnorm")
    assert Arm.parse(phase_of(finished(one)).pick()[0]).kind in ("frozen", "equal")


def test_progress_never_counts_more_than_there_is() -> None:
    most = phase_of(study().schedule()).size()[1]
    assert len({p.config.identity for p in trials_of(finished(study()))}) <= most


def test_the_comparison_names_the_same_pick_and_keeps_the_race_out_of_the_search() -> None:
    schedule = finished(study(static={"points": 4}))
    found = compare(schedule.table(), schedule.plan.scoring, 1.0)
    table = found.shortlist
    assert table.loc[table["chosen"], "arm"].to_list() == phase_of(schedule).pick()[:1]
    assert table["seeds"].max() > 1
    assert set(found.search["seed"]) == {schedule.plan.study.seed}
    assert set(found.confirm["seed"]) == set(schedule.plan.study.confirm_seeds)


def test_a_study_without_one_has_an_empty_table() -> None:
    schedule = finished(Study(small()))
    assert shortlist(schedule.table(), schedule.plan.scoring).empty


# --- the race


def test_after_one_seed_the_best_half_goes_on() -> None:
    scores = pd.DataFrame([[5.0, 1.0, 4.0, 2.0, 3.0, 6.0]], columns=list("abcdef"))
    assert survivors(scores) == ["b", "d", "e"]
    assert survivors(scores, 2) == ["b", "d"]


def test_after_two_seeds_only_what_noise_allows() -> None:
    scores = pd.DataFrame({"a": [1.0, 2.0], "b": [1.1, 2.0], "c": [9.0, 10.1]})
    assert survivors(scores) == ["a", "b"]


def test_the_winner_of_a_race_is_the_best_most_of_the_time() -> None:
    rng = np.random.default_rng(0)
    truth, wins, runs = np.array([0.0, 0.3, 1.0, 2.0, 4.0, 4.0]), 0, 0
    for _ in range(200):
        scores = pd.DataFrame(truth + rng.normal(0, 0.5, (1, 6)), columns=list("abcdef"))
        for _ in range(2):
            again = survivors(scores)
            if len(again) < 2:
                break
            runs += len(again)
            row = pd.Series(truth + rng.normal(0, 0.5, 6), index=scores.columns).where(
                [arm in again for arm in scores], np.nan
            )
            scores = pd.concat([scores, row.to_frame().T], ignore_index=True)
        wins += truth[list(scores.columns).index(leader(scores))] < 0.5
    assert wins >= 180
    assert runs <= 200 * 7


def test_an_arm_that_lost_a_seed_is_out_of_the_race() -> None:
    scores = pd.DataFrame({"a": [1.0, np.nan], "b": [2.0, 2.0], "c": [3.0, 3.0]})
    assert leader(scores) == "b"
    assert leader(scores, ["c"]) == "c"
    assert leader(scores, []) == ""


def test_the_last_free_worker_is_kept_for_the_shortlist_until_it_is_decided() -> None:
    schedule = study(gradnorm={"recipes": ["paper"], "trials": 3}).schedule()
    handed: list[list[PlannedTrial]] = []
    while isinstance(cohort := schedule.next_cohort(50, 2), list):
        handed.append(cohort)
    assert {p.phase for cohort in handed for p in cohort} == {"references", "shortlist"}


def test_on_many_workers_other_phases_do_not_wait_for_it() -> None:
    schedule = study(gradnorm={"recipes": ["paper"], "trials": 3}).schedule()
    handed: list[list[PlannedTrial]] = []
    while isinstance(cohort := schedule.next_cohort(1, 100), list):
        handed.append(cohort)
    assert {p.phase for cohort in handed for p in cohort} == {"references", "shortlist", "sweep", "confirm"}


def test_an_arm_that_a_sweep_chooses_too_is_confirmed_once_under_the_sweep_s_name() -> None:
    one = study(gradnorm={"recipes": ["direct"], "trials": 3, "alpha": [0.0, 0.5]})
    schedule = finished(one)
    assert "The shortlist found" not in answers(report_of(one, schedule).comparison)[0].text
    confirmed = [
        p for p in schedule.planned() if p.phase == "confirm" and p.arm.startswith("gradnorm_static/direct/")
    ]
    by_average: dict[tuple[str, int], set[str]] = {}
    for planned in confirmed:
        by_average.setdefault((planned.config.identity, planned.config.seed), set()).add(planned.arm)
    assert not any("alpha=" in arm for arms in by_average.values() if len(arms) > 1 for arm in arms)


def test_without_a_static_search_equal_weights_are_no_search() -> None:
    schedule = finished(study())
    found = compare(schedule.table(), schedule.plan.scoring, 1.0, searched=False)
    assert found.verdict.static == "equal"
    assert found.budget.table.empty
    assert "static search" not in found.cost["way"].to_list()


def test_the_confirm_phase_can_train_all_of_its_arms() -> None:
    schedule = finished(study(confirm={"shortlist": "all"}))
    confirmed = {
        p.arm for p in schedule.phases[-1].trials() if p.arm.split("/")[0] not in ("single_task", "known_optimum")
    }
    assert confirmed == {p.arm for p in trials_of(schedule)} | {"uncertainty"}
    assert schedule.phases[-1].size()[1] >= len(schedule.phases[-1].trials())


def test_the_trials_of_the_race_have_a_score_and_a_row_among_all_trials() -> None:
    one = study(shortlist={"alphas": [0.7, 0.8]})
    schedule = finished(one)
    found = compare(schedule.table(), one.plan.scoring, 1.0, searched=False)
    assert set(found.further["seed"]) == {one.plan.study.race_seed(1), one.plan.study.race_seed(2)}
    assert found.further["score"].notna().all()
    data = replace(Builder().data(), comparison=found, unfinished=pd.DataFrame())
    assert set(all_trials(data)["identity"]) == set(schedule.table()["identity"])


def test_the_report_of_a_study_without_a_static_search_says_nothing_about_one() -> None:
    one = study(baseline={"near": 1, "far": 2, "tiny": 3})
    data = replace(report_of(one, finished(one)), unfinished=pd.DataFrame())
    assert headline(data.comparison) == "GradNorm beats the weights of today"
    open_ = replace(data.comparison, verdict=replace(data.comparison.verdict, kind="none"))
    assert headline(open_) == f"Train with {arm_label(open_.recommended)}"
    shown = {section.figure: section for section in sections(data)}
    assert shown.keys().isdisjoint({"static_points", "budget", "distance"})
    table = arms_table(data).set_index("Arm")
    assert table.loc["the weights of today", "Notes"] == "compared with"
    words = " ".join(table.caption for section in shown.values() for table in section.tables)
    assert "best static" not in words
    drawn = [figure.to_json() for section in shown.values() if (figure := FIGURES[section.figure].figure(data))]
    assert not [text for text in drawn if "static search" in text or "best static" in text]
    ways = cost_table(data.comparison)["Way to find weights"].to_list()
    assert ways == ["GradNorm direct, one run", "the whole search", "one run with fixed weights"]


def test_a_report_names_the_shortlist_s_best_until_it_is_confirmed() -> None:
    one = study()
    schedule = one.schedule()
    while not any(
        p.arm == "equal" and p.config.test and schedule.results.get(p.config.identity) for p in schedule.planned()
    ):
        one.drive(schedule, 1, stop=1)
    (best,) = (c.arm.key for c in phase_of(schedule).provisional() if c.arm.kind in FIXED)
    before = report_of(one, schedule).comparison
    assert headline(replace(before, recommended="equal")) == "The confirm phase has not ended"
    assert f"The shortlist found {arm_label(best)} best" in answers(before)[0].text
    assert "The shortlist found" not in answers(report_of(one, finished(one)).comparison)[0].text


def report_of(one: Study, schedule: Schedule) -> ReportData:
    baseline = one.plan.baseline.arm.key if one.plan.baseline else ""
    found = compare(schedule.table(), one.plan.scoring, 1.0, baseline=baseline, searched=False)
    return replace(Builder().data(), comparison=found, metrics=one.plan.metrics, trajectories={})
