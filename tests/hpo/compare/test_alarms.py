"""Every alarm, and that none sounds where it is not due."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from hpo.compare import Comparison, Scoring, TaskScoring, compare, kind_of
from hpo.compare.alarms import alarms
from hpo.core.change import Change
from tests.helpers.compare_tables import SCORING, arm, arms_by_name, compared, references, row, weighted


def test_a_task_without_a_reference_is_left_out_with_an_alarm() -> None:
    trials = pd.DataFrame([*references(3), *arm("equal", [2.0] * 3, [2.0] * 3)])
    trials.loc[trials["arm"] == "single_task/error", "status"] = "diverged"
    trials.loc[trials["arm"] == "equal", "test/accuracy"] = 0.96  # 4 percent worse
    comparison = compare(trials, SCORING, 1.0)
    assert arms_by_name(comparison)["equal"]["score_test"] == pytest.approx(4.0)
    assert_without_reference(comparison, "error did not finish")


def test_a_reference_of_zero_is_left_out_with_an_alarm() -> None:
    trials = pd.DataFrame([*references(3), *arm("equal", [2.0] * 3, [2.0] * 3)])
    trials.loc[trials["arm"] == "single_task/error", ["val/error", "test/error"]] = 0.0
    comparison = compare(trials, SCORING, 1.0)
    assert arms_by_name(comparison)["equal"]["score_test"] == pytest.approx(2.0)
    assert_without_reference(comparison, "error is 0")


def assert_without_reference(comparison: Comparison, fault: str) -> None:
    """Assert that there is an alarm for the search seed and one for the confirm seeds."""
    beginning = f"the single-task reference of {fault} on the "
    seeds = {a.removeprefix(beginning).partition(":")[0] for a in comparison.alarms if a.startswith(beginning)}
    assert seeds == {"search seed", "confirm seeds"}


@pytest.mark.parametrize(("scores", "is_told"), [((2.0, 2.0, 2.0), True), ((2.0, 2.0, 2.0 + 1e-9), False)])
def test_weights_that_change_nothing_are_told(scores: tuple[float, float, float], is_told: bool) -> None:
    names, weights = ("equal", "static/01", "static/02"), ((1.0, 1.0), (1.5, 0.5), (0.5, 1.5))
    points = [weighted(name, 0, score, w) for name, score, w in zip(names, scores, weights, strict=True)]
    found = [alarm for alarm in compared(points).alarms if "to the last digit" in alarm]
    assert len(found) == is_told
    assert not found or found[0].startswith(
        "3 trials (equal, static/01, static/02) with different weights have the same"
    )


@pytest.mark.parametrize(
    ("task", "reference", "others", "is_near"),
    [
        ("accuracy", 0.4, 0.5, False),
        ("accuracy", 0.4, 0.1, False),
        ("accuracy", 0.01, 0.04, True),
        ("accuracy", -0.01, 0.04, True),
        ("accuracy", 0.01, -0.04, True),
        ("error", 0.01, 0.04, False),  # four times the error, no more
        ("error", -0.01, 0.04, True),
        ("error", 0.01, -0.04, True),
    ],
)
def test_a_reference_near_0_is_told(task: str, reference: float, others: float, is_near: bool) -> None:
    trials = pd.DataFrame(
        [*references(3), *arm("equal", [0.0] * 3, [0.0] * 3), *arm("static/01", [0.0] * 3, [0.0] * 3)]
    )
    alone = trials["arm"] == f"single_task/{task}"
    trials.loc[alone, f"test/{task}"], trials.loc[~alone, f"test/{task}"] = reference, others
    found = [alarm for alarm in compare(trials, SCORING, 1.0).alarms if "near zero" in alarm]
    assert len(found) == is_near
    assert all('change="absolute"' in line for line in found)
    assert all(
        line.startswith(f"the single-task reference of {task} on the confirm seeds is {reference:.2g}, near zero")
        for line in found
    )


@pytest.mark.parametrize("change", ["absolute", 0.5])
def test_a_task_with_a_scale_of_its_own_needs_no_reference_far_from_0(change: Change) -> None:
    trials = pd.DataFrame([*references(3), *arm("equal", [0.0] * 3, [0.0] * 3)])
    for reference in (0.01, 0.0):
        trials.loc[trials["arm"] == "single_task/accuracy", ["val/accuracy", "test/accuracy"]] = reference
        scoring = Scoring({"error": TaskScoring(1), "accuracy": TaskScoring(-1, change)})
        comparison = compare(trials, scoring, 1.0)
        assert not [alarm for alarm in comparison.alarms if "reference of accuracy" in alarm]
        percent = 100 * (reference - 1.0) / (1.0 if change == "absolute" else change)
        assert arms_by_name(comparison)["equal"]["score_test"] == pytest.approx(percent / 2)


def test_alarms() -> None:
    assert compared(arm("equal", [0.0] * 3, [0.0] * 3)).alarms == ()
    rows = [row(f"static/0{i}", 0, status="failed") for i in range(1, 8)]
    rows += [row("static/08", 0, alarms="no GPU\nslow"), row("static/09", 0, alarms="slow")]
    comparison = compared(rows, [row("equal", 1, 0.0, 0.0, steps=50)], seeds=1)
    assert comparison.alarms == (
        "7 trials (static/01, static/02, static/03, static/04 and 3 more arms) failed",
        "only 1 confirm seed: intervals from fewer than 3 seeds are unreliable",
        "arms were trained for different numbers of steps, from 50 to 100",
        "1 trial (static/08): no GPU",
        "2 trials (static/08, static/09): slow",
    )


GOOD = (
    arm("equal", [0.0] * 3, [0.0, 1.0, 2.0]),
    arm("static/01", [1.0] * 3, [1.0, 2.0, 3.0]),
    arm("gradnorm/paper/alpha=1", [0.5] * 3, [0.5, 1.5, 2.5]),
)


def test_a_good_study_sounds_no_alarm() -> None:
    search = [weighted("static/01", 0, -1.0, [1.0, 1.0]), weighted("static/02", 0, 3.0, [1.8, 0.2])]
    search += [weighted("static/03", 0, 2.0, [0.2, 1.8]), weighted("gradnorm/paper/alpha=1", 0, -1.0, [1.0, 1.0])]
    better = arm("static/01", [-1.0] * 3, [-1.0, 0.5, 1.0])
    assert compared(search, better, GOOD[0], GOOD[2]).alarms == ()
    assert compared(*GOOD).alarms == ()


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_trials_that_did_not_finish(status: str) -> None:
    rows = [row("static/07", 0, status=status), row("gradnorm/paper/alpha=0", 0, status=status)]
    assert compared(rows, *GOOD).alarms == (f"2 trials (static/07, gradnorm/paper/alpha=0) {status}",)
    assert compared(rows[:1], *GOOD).alarms == (f"1 trial (static/07) {status}",)


def test_few_seeds() -> None:
    few = [rows[:2] for rows in GOOD]
    for comparison in (compared(*few, seeds=2), compared(seeds=2)):  # also with references alone
        (alarm,) = comparison.alarms
        assert alarm.startswith("only 2 confirm seeds")
    assert compared(*few, GOOD[0]).alarms == ()  # another arm has three


def test_unequal_steps() -> None:
    rows = arm("static/04", [5.0] * 3, [9.0] * 3, steps=90)
    (alarm,) = compared(rows, *GOOD).alarms
    assert "different numbers of steps, from 90 to 100" in alarm
    shorter_search = [row("static/04", 0, 5.0, steps=7)]  # not compared with the confirm trials
    assert compared(shorter_search, *GOOD).alarms == ()


def test_a_reference_that_is_missing_in_the_search_alone() -> None:
    trials = pd.DataFrame([*references(3), *(one for rows in GOOD for one in rows)])
    gone = (trials["arm"] == "single_task/accuracy") & (trials["seed"] == 0)
    (alarm,) = compare(trials[~gone], SCORING, 1.0).alarms
    assert alarm.startswith("the single-task reference of accuracy did not finish on the search seed")


def test_validation_and_test_disagree() -> None:
    on_test = arm("static/02", [4.0] * 3, [-9.0, -8.1, -6.9])  # validation puts it last
    (alarm,) = compared(*GOOD, on_test).alarms
    for fact in ("validation and test disagree", "validation chose equal", "static/02 is better by 9 percentage"):
        assert fact in alarm
    moving = arm("gradnorm/paper/alpha=2", [4.0] * 3, [-9.0, -8.1, -6.9])  # no weights to recommend
    assert compared(*GOOD, moving).alarms == ()
    within_noise = arm("static/02", [4.0] * 3, [-9.0, 9.0, -7.0])
    assert compared(*GOOD, within_noise).alarms == ()


def spread(best: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A search over three points, and the confirm trials of the best of them."""
    w = {"static/01": [0.2, 1.8], "static/02": [1.0, 1.0], "static/03": [1.8, 0.2]}
    search = [weighted(name, 0, -5.0 if name == best else 5.0, one) for name, one in w.items()]
    return search, arm(best, [-5.0] * 3, [-5.0] * 3)


@pytest.mark.parametrize(
    ("best", "beyond"),
    [
        ("static/01", "more accuracy, less error"),
        ("static/03", "more error, less accuracy"),
    ],
)
def test_a_best_point_on_the_edge_of_the_searched_region(best: str, beyond: str) -> None:
    (alarm,) = compared(*spread(best)).alarms
    for fact in (f"the best static point, {best}, is on the edge", f"({beyond})", "widen the search"):
        assert fact in alarm


def test_no_edge_where_a_point_as_good_lies_further_in() -> None:
    search, _ = spread("static/02")
    confirm = [arm("static/02", [0.0] * 3, [0.0] * 3), arm("static/01", [-1.0] * 3, [-1.0] * 3)]
    assert compared(search, *confirm).alarms == ()  # static/01 is the best arm, static/02 better on the search seed
    (alarm,) = compared(spread("static/03")[0]).alarms  # before the confirm phase: by the search seed
    assert alarm.startswith("the best static point, static/03, is on the edge")


def test_no_edge_inside_the_region_or_without_one() -> None:
    assert compared(*spread("static/02")).alarms == ()
    search, confirm = spread("static/01")
    assert compared(search[:2], confirm).alarms == ()  # two points span no region
    unknown = [weighted("static/04", 0, 9.0, [0.0, 2.0])]  # log-ratios are not finite
    assert compared(search, unknown, confirm).alarms == ()


def test_the_edge_of_a_region_of_many_tasks() -> None:
    tasks = [f"t{i}" for i in range(6)]
    w = {"static/01": [0.1] * 5 + [9.0], "static/02": [9.0, 0.3, 0.3, 0.4, 0.5, 0.1], "static/03": [1.0] * 6}
    rows = [
        {**row(name, 0), "score": float(i)}
        | {f"{split}/{task}": 1.0 for split in ("val", "test") for task in tasks}
        | {f"geometric/{task}": x for task, x in zip(tasks, one, strict=True)}
        for i, (name, one) in enumerate(w.items())
    ]
    search, nothing = pd.DataFrame(rows), compared(seeds=3)
    scoring = Scoring(dict.fromkeys(tasks, TaskScoring(1)))
    none = search.iloc[:0]
    (alarm,) = alarms(none, search, none, nothing.arms, search.iloc[:1], nothing.limits, scoring)
    words = alarm.split("beyond it (")[1].split(")")[0].split("; ")
    assert sorted(words) == ["less t0", "less t1", "less t2", "less t3", "less t4", "more t5"]


def test_weights_of_gradnorm_outside_the_searched_region() -> None:
    search, confirm = spread("static/02")
    for w, direction in (([0.1, 1.9], "more accuracy, less error"), ([1.95, 0.05], "more error, less accuracy")):
        outside = [weighted("gradnorm/robust/alpha=1", 0, 0.0, w)]
        (alarm,) = compared(search, outside, confirm).alarms
        assert alarm.startswith(f"E_t[w] of the robust recipe is outside the searched region ({direction})")
    inside = [weighted("gradnorm/robust/alpha=1", 0, 0.0, [0.21, 1.79])]
    assert compared(search, inside, confirm).alarms == ()


def test_what_trials_told_is_one_line_a_kind() -> None:
    told = ["L(0) of a is 12 times the mean", "L(0) of a is 99.5 times the mean", "L(0) of b is 12 times the mean"]
    rows = [row(f"static/0{i}", 0, 5.0, alarms=alarm) for i, alarm in enumerate(told, 1)]
    lines = (f"2 trials (static/01, static/02): {told[0]}", f"1 trial (static/03): {told[2]}")
    assert compared(rows, *GOOD).alarms == lines
    assert [kind_of(one) == kind_of(told[0]) for one in told] == [True, True, False]
    assert kind_of("1,024 of 3.5% hits") == kind_of("7 of 12% hits")
    assert kind_of("a number > 0, got -2.83") == kind_of("a number > 0, got -1e-05") == kind_of("a number > 0, got 7")


def test_what_a_trial_says_of_each_task_is_kept_and_counted_once() -> None:
    said = "L(0) of f1 is 12 times the losses of the next\nL(0) of f2 is 40 times the losses of the next"
    rows = [
        row("gradnorm/paper/alpha=1", 0, **{"alarms": said}),
        row("gradnorm/paper/alpha=2", 0, **{"alarms": said}),
    ]
    found = [alarm for alarm in compared(rows).alarms if "L(0)" in alarm]
    assert [alarm.split(":")[0].split(" (")[0] for alarm in found] == ["2 trials", "2 trials"]
    assert ["f1" in found[0], "f2" in found[1]] == [True, True]
