"""Whole studies without a cluster: a pure function stands for training, the schedule decides what it is asked."""

from __future__ import annotations

import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.compare import compare
from hpo.core.trial import AVERAGES, PlannedTrial, TrialConfig, TrialResult
from hpo.study.alpha_sweep import AlphaSweep
from hpo.study.phases import PHASES
from hpo.study.phases.gradnorm_sweeps import GradNormSweeps, sweep_trial
from hpo.study.phases.references import reference_trials
from hpo.study.phases.static_search import static_trials
from hpo.study.plan import Plan
from hpo.study.schedule import Next, Schedule
from tests.helpers.plans import sizes
from tests.helpers.small_problem import TASKS
from tests.helpers.studies import Fate, Study, fine, identities, of_method, small, train


def check_finished(study: Study, schedule: Schedule) -> None:
    """Every trial once, all of them ended, all in the table."""
    handed = identities(study.handed)
    assert len(set(handed)) == len(handed)
    assert set(handed) == {p.config.identity for p in schedule.planned()} == set(schedule.results)
    assert schedule.next() is Next.FINISHED
    for count in schedule.progress().values():
        assert count["done"] + count["failed"] == count["total"]
        assert count["running"] == 0
    table = schedule.table()
    assert not table.duplicated(["arm", "identity"]).any()
    assert set(table["identity"]) == set(handed)


def sweep_of(schedule: Schedule, recipe: str) -> AlphaSweep:
    (phase,) = (phase for phase in schedule.phases if isinstance(phase, GradNormSweeps))
    return phase.sweeps[recipe]


@pytest.mark.parametrize("slots", [1, 3, 100])
def test_a_whole_study(slots: int) -> None:
    plan = small()
    study = Study(plan)
    schedule = study.schedule()
    totals = {phase: count["total"] for phase, count in schedule.progress().items()}
    assert totals == {phase: trials for phase, (_, trials) in sizes(plan).items()}
    study.drive(schedule, slots)
    check_finished(study, schedule)
    table = schedule.table()
    counts = table.drop_duplicates("identity").groupby("phase").size().to_dict()
    size = {phase: trials for phase, (_, trials) in sizes(plan).items()}
    searching = [phase for phase in PHASES if phase != "confirm"]
    assert {phase: counts.get(phase, 0) for phase in searching} == {phase: size[phase] for phase in searching}
    # arithmetic and geometric average agree in this study, and equal weights are a reference and a good point
    shared = 2 * len(plan.study.gradnorm.recipes) + 2 * ("equal" in top_static(schedule, plan))
    assert counts["confirm"] == size["confirm"] - shared


def top_static(schedule: Schedule, plan: Plan) -> list[str]:
    search = compare(schedule.table(), plan.scoring, 1.0).search
    return list(search.loc[search["kind"].isin(["static", "equal"]), "arm"])[: plan.study.confirm.top_static]


def test_with_one_slot_the_phases_come_in_their_order() -> None:
    study = Study(small())
    study.drive(study.schedule(), 1)
    phases = [planned.phase for planned in study.handed]
    assert phases == sorted(phases, key=list(PHASES).index)


def test_with_many_slots_fixed_confirm_trials_start_before_the_search_has_ended() -> None:
    schedule = Study(small()).schedule()
    first = []
    while isinstance(planned := schedule.next(), PlannedTrial):
        first.append(planned)
    assert planned is Next.WAIT
    assert {p.phase for p in first} == set(PHASES) - {"shortlist", "refine", "tune"}
    assert sum(p.phase == "sweep" for p in first) == 6  # the three starting points of each recipe


def test_a_sweep_waits_for_the_scores_that_its_next_suggestion_depends_on() -> None:
    schedule = Study(small(gradnorm={"recipes": ["paper"], "trials": 9})).schedule()
    first = []
    while isinstance(planned := schedule.next(), PlannedTrial):
        first.append(planned)
    swept = [p.config for p in first if p.phase == "sweep"]
    assert [config.settings["alpha"] for config in swept] == [0.0, 0.5, 1.5]
    schedule.finished(swept[1].identity, train(swept[1]))
    schedule.finished(swept[2].identity, train(swept[2]))
    references = [p.config for p in first if p.phase == "references"]
    for config in references:
        assert schedule.next() is Next.WAIT  # two of three have ended, but the first score is not there
        schedule.finished(config.identity, train(config))
    assert schedule.next() is Next.WAIT
    schedule.finished(swept[0].identity, train(swept[0]))
    more = [schedule.next() for _ in range(4)]
    assert [isinstance(planned, PlannedTrial) and planned.phase for planned in more[:3]] == ["sweep"] * 3
    assert more[3] is Next.WAIT


def test_a_trial_counts_as_running_only_once_a_worker_has_started_it() -> None:
    schedule = Study(small()).schedule()
    planned = schedule.next()
    assert isinstance(planned, PlannedTrial)
    assert schedule.progress()["references"]["running"] == 0
    schedule.begun(planned.config.identity)
    schedule.begun(planned.config.identity)  # again, after its worker died
    schedule.begun("of another study")
    assert schedule.progress()["references"]["running"] == 1
    schedule.finished(planned.config.identity, train(planned.config))
    assert schedule.progress()["references"] == {"total": 4, "done": 1, "running": 0, "failed": 0}


def test_diverged_trials_are_done_and_failed_ones_are_not() -> None:
    schedule = Study(small()).schedule()
    for status in ("diverged", "failed", "finished"):
        planned = schedule.next()
        assert isinstance(planned, PlannedTrial)
        schedule.finished(planned.config.identity, TrialResult(status))
    assert schedule.progress()["references"] == {"total": 4, "done": 2, "running": 0, "failed": 1}


@pytest.mark.parametrize(
    ("fate", "absent"),
    [
        (of_method("single_task"), {"static", "gradnorm", "gradnorm_static"}),
        (of_method("static", "equal"), {"static"}),
        (of_method("gradnorm"), {"gradnorm", "gradnorm_static"}),
        (lambda config: "failed", {"static", "gradnorm", "gradnorm_static"}),
    ],
    ids=["references", "static", "gradnorm", "all fail"],
)
def test_a_study_ends_whatever_diverges(fate: Fate, absent: set[str]) -> None:
    study = Study(small(), fate)
    schedule = study.schedule()
    study.drive(schedule, 3)
    check_finished(study, schedule)
    table = schedule.table()
    confirmed = set(table.loc[table["phase"] == "confirm", "kind"])
    every = {"single_task", "equal", "uncertainty", "frozen", "static", "gradnorm", "gradnorm_static"}
    assert confirmed == every - absent


def random_fate(seed: int, bad: float) -> Fate:
    def fate(config: TrialConfig) -> str:
        chance = random.Random(f"{seed}{config.identity}")
        return "finished" if chance.random() > bad else chance.choice(["diverged", "failed"])

    return fate


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6), slots=st.sampled_from([1, 2, 3, 5, 100]), bad=st.sampled_from([0.0, 0.2, 0.5, 0.9])
)
def test_a_study_ends_in_any_order_of_events(seed: int, slots: int, bad: float) -> None:
    study = Study(small(seeds=1), random_fate(seed, bad))
    schedule = study.schedule()
    study.drive(schedule, slots, order=random.Random(seed))
    check_finished(study, schedule)


@settings(max_examples=15, deadline=None)
@given(stops=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 10**6), slots=st.sampled_from([1, 3, 100]))
def test_a_study_killed_at_any_time_loses_and_repeats_nothing(stops: list[int], seed: int, slots: int) -> None:
    study = Study(small(seeds=1))
    for stop in stops:
        study.drive(study.schedule(), slots, stop, random.Random(seed))
        study.handed = [p for p in study.handed if p.config.identity in study.results]  # the others were killed
    schedule = study.schedule()
    study.drive(schedule, slots, order=random.Random(seed))
    check_finished(study, schedule)
    assert len(schedule.table().query("phase == 'sweep'")) == 6


def test_a_study_resumed_after_each_trial_runs_the_same_trials() -> None:
    whole = Study(small(seeds=1))
    whole.drive(whole.schedule(), 1)
    resumed = Study(small(seeds=1))
    while resumed.drive(resumed.schedule(), 1, stop=1):
        pass
    assert set(resumed.results) == set(whole.results)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    slots=st.sampled_from([2, 4, 100]),
    stops=st.lists(st.integers(1, 15), max_size=3),
    bad=st.sampled_from([0.0, 0.2]),
)
def test_neither_order_nor_new_launches_change_trials_or_table(
    seed: int, slots: int, stops: list[int], bad: float
) -> None:
    plan = small(seeds=1, gradnorm={"trials": 9})
    plain = Study(plan, random_fate(7, bad))
    whole = plain.schedule()
    plain.drive(whole, 1)
    study, order = Study(plan, random_fate(7, bad)), random.Random(seed)
    for stop in stops:
        study.drive(study.schedule(), slots, stop, order)
    schedule = study.schedule()
    study.drive(schedule, slots, order=order)
    assert set(study.results) == set(plain.results)
    assert sum(p.phase == "sweep" for p in schedule.planned()) == 18
    assert list(schedule.planned()) == list(whole.planned())
    pd.testing.assert_frame_equal(schedule.table(), whole.table())
    pd.testing.assert_frame_equal(study.schedule(run=False).table(), whole.table())


def test_sweep_trials_are_listed_by_recipe_and_parameters_in_whatever_order_they_are_adopted() -> None:
    plan = small(gradnorm={"recipes": ["robust", "paper"], "learning_rate": [0.001, 0.1], "trials": 3})
    parameters = [{"alpha": alpha, "learning_rate": rate} for alpha in (0.5, 2.0, 10 / 9) for rate in (0.05, 0.01)]
    trials = [sweep_trial(plan, recipe, p) for recipe in ("paper", "robust") for p in parameters]
    results = {planned.config.identity: train(planned.config) for planned in [*reference_trials(plan), *trials]}

    def listed(order: list[PlannedTrial]) -> list[PlannedTrial]:
        schedule = Schedule(plan, results, [planned.config for planned in order])
        found = [planned for planned in schedule.planned() if planned.phase == "sweep"]
        assert list(schedule.table().query("phase == 'sweep'")["arm"]) == [planned.arm for planned in found]
        return found

    found = listed(trials)
    assert found == listed(trials[::-1]) == listed([*random.Random(0).sample(trials, 12), trials[0]])
    places = [tuple(p.config.settings[name] for name in ("recipe", "alpha", "learning_rate")) for p in found]
    assert places == [
        (recipe, alpha, rate)
        for recipe in ("robust", "paper")
        for alpha in (0.5, 1.111, 2.0)
        for rate in (0.01, 0.05)
    ]


def test_failed_trials_run_again_at_the_next_launch() -> None:
    study = Study(small(), lambda config: "failed" if config.method == "uncertainty" else "finished")
    study.drive(study.schedule(), 3)
    failed = {identity for identity, result in study.results.items() if result.status == "failed"}
    assert len(failed) == 3
    study.fate, study.handed = fine, []
    schedule = study.schedule()
    study.drive(schedule, 3)
    assert set(identities(study.handed)) == failed
    assert set(schedule.table()["status"]) == {"finished"}


def test_a_finished_study_hands_out_nothing() -> None:
    study = Study(small())
    study.drive(study.schedule(), 3)
    assert study.schedule().next() is Next.FINISHED


def test_reading_a_finished_study_gives_the_same_table() -> None:
    study = Study(small())
    driver = study.schedule()
    study.drive(driver, 3)
    reader = study.schedule(run=False)
    pd.testing.assert_frame_equal(reader.table(), driver.table())
    assert reader.progress() == driver.progress()


def test_optuna_gets_the_validation_score_once_the_references_have_ended() -> None:
    study = Study(small(), lambda config: "diverged" if config.settings.get("alpha") == 0.5 else "finished")
    schedule = study.schedule()
    study.drive(schedule, 100)
    search = compare(schedule.table(), study.plan.scoring, 1.0).search
    for recipe in ("paper", "robust"):
        told = sweep_of(schedule, recipe).scores
        assert len(told) == 3
        for identity, score in told.items():
            diverged = study.configs[identity].settings["alpha"] == 0.5
            expected = search.loc[search["identity"] == identity, "score"].item()
            assert score is None if diverged else score == pytest.approx(expected)


def test_optuna_gets_no_score_before_the_last_reference_has_ended() -> None:
    study = Study(small())
    schedule = study.schedule()
    out = []
    while isinstance(planned := schedule.next(), PlannedTrial):
        out.append(planned)
    search = {p.arm: p.config for p in out if p.phase != "confirm"}
    reference = search.pop("single_task/tiny")
    for config in search.values():
        schedule.finished(config.identity, train(config))

    assert sweep_of(schedule, "paper").scores == {}
    schedule.finished(reference.identity, train(reference))
    assert len(sweep_of(schedule, "paper").scores) == 3


def test_a_sweep_that_asks_one_alpha_again_runs_it_once() -> None:
    study = Study(small(gradnorm={"alpha": [1.0, 1.0], "trials": 4}))
    schedule = study.schedule()
    study.drive(schedule, 3)
    check_finished(study, schedule)
    assert schedule.progress()["sweep"] == {"total": 2, "done": 2, "running": 0, "failed": 0}
    assert len(sweep_of(schedule, "paper").history.get_trials()) == 4


def test_an_alpha_whose_result_is_known_is_not_run_again() -> None:
    study = Study(small(gradnorm={"recipes": ["paper"], "alpha": [1.0, 1.0], "trials": 1}))
    study.drive(study.schedule(), 1)
    study.plan = small(gradnorm={"recipes": ["paper"], "alpha": [1.0, 1.0], "trials": 3})
    schedule = study.schedule()
    assert study.drive(schedule, 1) == 0
    assert len(sweep_of(schedule, "paper").history.get_trials()) == 3


def test_arms_of_one_config_share_its_result() -> None:
    study = Study(small())
    schedule = study.schedule()
    study.drive(schedule, 3)
    table = schedule.table().set_index("arm")
    arithmetic, geometric = (table.loc[f"gradnorm_static/robust/{name}"] for name in ("arithmetic", "geometric"))
    assert len(arithmetic) == 2
    assert list(arithmetic["identity"]) == list(geometric["identity"])
    assert list(arithmetic["test/near"]) == list(geometric["test/near"])
    assert list(table.loc["gradnorm_static/robust/tail", "identity"]) != list(arithmetic["identity"])


def test_the_columns_of_the_table() -> None:
    study = Study(small())
    schedule = study.schedule()
    assert schedule.table().empty
    study.drive(schedule, 3)
    table = schedule.table()
    row = table[table["kind"] == "gradnorm"].query("phase == 'confirm' and recipe == 'robust'").iloc[0]
    config = study.configs[row["identity"]]
    result = study.results[row["identity"]]
    assert (row["alpha"], row["seed"], row["status"]) == (config.settings["alpha"], config.seed, "finished")
    assert (row["steps"], row["seconds"]) == (100, 1.0)
    assert np.isnan(row["learning_rate"])
    for task in TASKS:
        assert row[f"val/{task}"] == result.validation[task]
        assert row[f"test/{task}"] == result.test[task]
        assert [row[f"{name}/{task}"] for name in AVERAGES] == [result.averages[name][task] for name in AVERAGES]
    searched = table[table["phase"] != "confirm"]
    assert searched[[f"test/{task}" for task in TASKS]].isna().all(axis=None)
    kinds = set(zip(table["kind"], table["recipe"], strict=True))
    assert kinds == {
        *((kind, "") for kind in ("single_task", "uncertainty", "equal", "static", "frozen")),
        *((kind, recipe) for kind in ("gradnorm", "gradnorm_static") for recipe in ("paper", "robust")),
    }


def test_comparing_works_after_every_trial() -> None:
    study = Study(small(seeds=1), random_fate(3, 0.2))
    schedule = study.schedule()
    kinds = []
    while study.drive(schedule, 1, stop=1):
        kinds.append(compare(schedule.table(), study.plan.scoring, 1.0).verdict.kind)
    assert kinds[0] == "none"
    assert len(kinds) == len(study.results)


# --- cohorts


def cohorts(schedule: Schedule, most: int, slots: int) -> list[list[PlannedTrial]]:
    """Every cohort of a whole study, each ended before the next is asked for."""
    handed: list[list[PlannedTrial]] = []
    while not isinstance(cohort := schedule.next_cohort(most, slots), Next):
        handed.append(cohort)
        for planned in cohort:
            schedule.finished(planned.config.identity, train(planned.config))
    assert cohort is Next.FINISHED
    return handed


@pytest.mark.parametrize(("most", "slots"), [(3, 2), (8, 1), (100, 4)])
def test_cohorts_are_of_one_kind_and_make_up_the_study(most: int, slots: int) -> None:
    handed = cohorts(Study(small()).schedule(), most, slots)
    assert 1 < max(map(len, handed)) <= most
    for cohort in handed:
        configs = [planned.config for planned in cohort]
        assert len({(c.seed, c.epochs, c.test, c.method == "gradnorm") for c in configs}) == 1
    counts = {len(cohort) for cohort in cohorts(Study(small()).schedule(), 1, slots)}
    assert counts == {1}


def test_waiting_trials_are_divided_among_the_slots() -> None:
    schedule = Study(small()).schedule()
    first, second = schedule.next_cohort(100, 2), schedule.next_cohort(100, 2)
    assert isinstance(first, list)
    assert isinstance(second, list)
    searched = len(reference_trials(schedule.plan)) + len(static_trials(schedule.plan))
    assert len(first) == -(-searched // 2)
    assert {planned.phase for planned in [*first, *second]} == {"references", "static"}


def test_a_method_that_cannot_be_stacked_is_handed_out_alone() -> None:
    plan = small(references=["single_task", "equal", "imtl_g", "uncertainty"])
    handed = cohorts(Study(plan).schedule(), 100, 1)
    lonely = {len(cohort) for cohort in handed if any(planned.config.method == "imtl_g" for planned in cohort)}
    assert lonely == {1}


def test_the_largest_cohort_is_that_of_the_most_trials_of_one_kind() -> None:
    schedule = Study(small()).schedule()
    assert schedule.largest_cohort() == len(reference_trials(schedule.plan)) + len(static_trials(schedule.plan))
