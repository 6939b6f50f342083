"""Static points that are stopped early: the choice does not depend on timing; a paused trial continues exactly."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import hpo.training.checkpoints
from hpo.compare import compare, static_points
from hpo.core.errors import StudyError
from hpo.core.storage import Storage
from hpo.core.trial import PlannedTrial, TrialConfig, TrialResult, TrialStatus
from hpo.study.halving import Halving, rungs_of
from hpo.study.phases.confirm import confirm_fixed
from hpo.study.phases.gradnorm_sweeps import sweep_trial
from hpo.study.phases.references import reference_trials
from hpo.study.phases.static_search import full_trials, static_trials
from hpo.study.plan import Plan
from hpo.study.schedule import Next, Schedule
from hpo.training.checkpoints import Checkpoints
from hpo.training.cohort import run_cohort
from hpo.training.trial import run_trial
from tests.helpers.cohorts import CPU, ONE_OF_EACH, Heard, Normed, check_same, cohort_of
from tests.helpers.plans import sizes
from tests.helpers.runs import Case
from tests.helpers.studies import Study, small, train

RESULT = TrialResult(TrialStatus.PAUSED)


@pytest.mark.parametrize(
    ("epochs", "eta", "rungs"), [(8, 3, [1, 3]), (9, 3, [1, 3]), (8, 2, [1, 2, 4]), (1, 2, []), (2, 2, [1])]
)
def test_rungs(epochs: int, eta: int, rungs: list[int]) -> None:
    assert rungs_of(epochs, eta) == rungs


def test_the_best_trials_continue_at_each_rung() -> None:
    names = [f"{k:02d}" for k in range(24)]
    halving = Halving(names, 9, 3, 2)
    ended: list[str] = []
    for rung, places in ((1, 8), (3, 3)):
        left = [name for name in names if name not in ended]
        for name in left:
            assert halving.at_rung(ended) == {}
            assert halving.until(name) == rung
            halving.pause(name, RESULT)
        assert set(halving.at_rung(ended)) == set(left)
        on, off = halving.decide({name: -float(name) for name in left})
        assert on == sorted(left, reverse=True)[:places]
        assert sorted([*on, *off]) == left
        ended += off
    assert [halving.until(name) for name in on] == [9, 9, 9]


def test_without_scores_all_continue_and_without_halving_all_end() -> None:
    halving = Halving(["a", "b", "c"], 4, 2, 1)
    for name in "abc":
        halving.pause(name, RESULT)
    assert halving.decide(dict.fromkeys("abc", float("nan")))[1] == []
    assert Halving([], 4, 2, 1).until("a") == 4


def test_those_without_a_score_are_stopped_first() -> None:
    halving = Halving(["a", "b"], 2, 2, 1)
    for name in "ab":
        halving.pause(name, RESULT)
    assert halving.decide({"a": float("nan"), "b": 5.0}) == (["b"], ["a"])


# --- in a study

SEARCH = {"halving": 2}


def halved(**fields: Any) -> Plan:
    return small(**({"search": SEARCH, "static": {"points": 12}, "epochs": 8, "confirm": {"top_static": 1}} | fields))


def drive(study: Study, schedule: Schedule, slots: int, order: random.Random, stop: float = np.inf) -> list[str]:
    """Run until the end, or until so many trials have come back; the names of those that were stopped early."""
    running: list[PlannedTrial] = []
    stopped: list[str] = []
    back = 0
    while back < stop:
        planned = schedule.next() if len(running) < slots else Next.WAIT
        if isinstance(planned, PlannedTrial):
            schedule.begun(planned.config.identity)
            running.append(planned)
            continue
        if planned is Next.FINISHED:
            assert not running
            break
        assert running, "told to wait for nothing"
        done = running.pop(order.randrange(len(running)))
        config, until = done.config, schedule.until(done.config)
        result = replace(
            train(config), steps=until * 10, status=TrialStatus.PAUSED if until < config.epochs else "finished"
        )
        study.configs[config.identity] = config
        if result.status != TrialStatus.PAUSED:
            study.results[config.identity] = result
        schedule.finished(config.identity, result)
        for loser in schedule.stopped():
            stopped.append(loser.arm)
            study.results[loser.config.identity] = schedule.results[loser.config.identity]
        back += 1
    return stopped


def ends(study: Study) -> dict[str, str]:
    static = {p.config.identity: p.arm for p in static_trials(study.plan)}
    return {static[i]: result.status for i, result in study.results.items() if i in static}


@pytest.mark.parametrize("slots", [1, 3, 20])
def test_the_points_that_are_stopped_do_not_depend_on_timing(slots: int) -> None:
    study, other = Study(halved()), Study(halved())
    stopped = drive(study, study.schedule(), slots, random.Random(slots))
    drive(other, other.schedule(), 2, random.Random(0))
    assert ends(study) == ends(other)
    found = ends(study)
    assert sorted(stopped) == sorted(arm for arm, status in found.items() if status == TrialStatus.STOPPED)
    assert len(found) == len(static_trials(study.plan))
    points = len(found) - 1
    assert list(found.values()).count(TrialStatus.STOPPED) == points - -(-points // 8)
    assert found["equal"] == "finished"
    best = min((p for p in static_trials(study.plan) if p.arm != "equal"), key=lambda p: _score(p.config))
    assert found[best.arm] == "finished"


def _score(config: TrialConfig) -> float:
    return sum(train(config).validation.values())


@pytest.mark.parametrize("stop", [3, 9, 15, 18, 21])
def test_a_study_killed_between_decisions_does_not_decide_twice(stop: int) -> None:
    study, whole = Study(halved()), Study(halved())
    drive(whole, whole.schedule(), 3, random.Random(1))
    drive(study, study.schedule(), 3, random.Random(1), stop)
    drive(study, study.schedule(), 3, random.Random(2))
    assert ends(study) == ends(whole)


def test_the_comparison_says_what_was_stopped_and_never_chooses_it() -> None:
    study = Study(halved())
    schedule = study.schedule()
    drive(study, schedule, 3, random.Random(0))
    found = compare(schedule.table(), study.plan.scoring, 1.0)
    assert set(static_points(found.search)["status"]) == {"finished"}
    assert len(static_points(found.search, stopped=True)) == len(static_trials(study.plan))
    assert set(found.ranks["points"]) == {len(static_trials(study.plan))}
    (alarm,) = [alarm for alarm in found.alarms if "stopped early" in alarm]
    counted = len(static_trials(study.plan))
    lost = list(ends(study).values()).count(TrialStatus.STOPPED)
    assert alarm.startswith(f"{lost} of {counted} static points were stopped early")
    assert "(10 to 40 steps)" in alarm
    assert alarm.endswith("the verdict is too favourable to GradNorm")
    static = found.cost.set_index("way").loc["static search"]
    assert static["steps"] == sum(r.steps for i, r in study.results.items() if _is_static(study, i))


def _is_static(study: Study, identity: str) -> bool:
    return identity in {p.config.identity for p in static_trials(study.plan)}


# --- short runs


def test_a_shortened_search_trains_some_points_to_the_end_too() -> None:
    plan = small(search={"epochs": 2, "full": 3}, epochs=8, static={"points": 12})
    search = reference_trials(plan) + static_trials(plan)
    assert {p.config.epochs for p in search} == {2}
    assert {p.config.epochs for p in confirm_fixed(plan)} == {8}
    assert sweep_trial(plan, "paper", {"alpha": 0.5}).config.epochs == 2
    full = full_trials(plan)
    assert [p.config.epochs for p in full] == [8] * 3
    short = {p.arm: p.config for p in static_trials(plan)}
    assert len({p.arm for p in full}) == 3
    for p in full:
        assert p.config == replace(short[p.arm.replace("full/", "static/")], epochs=8)
    assert sizes(plan)["static"] == (len(static_trials(plan)) + 3,) * 2
    assert full_trials(small()) == []


def test_a_search_cannot_be_longer_than_the_rest() -> None:
    with pytest.raises(StudyError, match=r"^search.epochs: expected at most 8, those of the confirm phase, got 9$"):
        small(search={"epochs": 9}, epochs=8)


def test_the_comparison_says_how_far_short_runs_agree_with_full_ones() -> None:
    study = Study(small(search={"epochs": 2, "full": 6}, epochs=8, static={"points": 12}))
    schedule = study.schedule()
    study.drive(schedule, 3)
    table = schedule.table()
    found = compare(table, study.plan.scoring, 1.0)
    (alarm,) = [alarm for alarm in found.alarms if "short runs" in alarm]
    assert alarm.startswith("the search used short runs, of 100 steps instead of 100. Spearman's rho of ")
    rho = re.search(r"is (0\.\d\d) \(6 points\)", alarm)  # the toy's scores have noise of their own
    assert rho is not None
    assert float(rho[1]) > 0.5
    turned = table.copy()  # full runs that say the opposite
    full = turned["kind"] == "full"
    for task in study.plan.tasks:
        turned.loc[full, f"val/{task}"] = 10 - turned.loc[full, f"val/{task}"]
    (alarm,) = [alarm for alarm in compare(turned, study.plan.scoring, 1.0).alarms if "short runs" in alarm]
    assert f"is -{rho[1]} (6 points)" in alarm
    assert alarm.endswith("use longer runs or raise search.full")
    assert "full" not in set(static_points(found.search)["kind"])


def test_the_interval_of_rho_by_its_formula() -> None:
    from hpo.compare.shortened_search import short_runs

    scores = [1.0, 2.0, 3.0, 4.0, 5.0]
    rows = [("static", f"static/{k + 1:02d}", s) for k, s in enumerate(scores)]
    rows += [("full", f"full/{k + 1:02d}", s) for k, s in enumerate([2.0, 1.0, 3.0, 5.0, 4.0])]
    search = pd.DataFrame(rows, columns=["kind", "arm", "score"]).assign(steps=10)
    found = short_runs(search)
    assert found is not None
    assert found.rho == pytest.approx(0.8)
    half = 1.959964 * np.sqrt((1 + 0.32) / 2)
    assert (found.low, found.high) == pytest.approx(
        tuple(np.tanh(np.arctanh(0.8) + np.array([-half, half]))), abs=1e-6
    )


# --- a trial that pauses


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setattr(hpo.training.checkpoints, "COST", 0)
    return Storage(str(tmp_path / "checkpoints"))


def kept(storage: Storage, configs: list[TrialConfig]) -> list[Checkpoints]:
    return [Checkpoints(storage, config.identity, 1e9, len(configs)) for config in configs]


@pytest.mark.parametrize("together", [True, False])
def test_a_trial_that_has_paused_ends_as_one_that_has_not(together: bool, storage: Storage) -> None:
    configs = cohort_of(*ONE_OF_EACH[:3], *ONE_OF_EACH[-3:])
    for until in (1, 1, 2):  # the second time there is nothing to do
        heard = Heard()
        run_cohort(configs, Normed(), CPU, heard, kept(storage, configs), together, [until] * len(configs))
        for config in configs:
            result = heard.results[config.identity]
            assert (result.status, result.steps, len(result.trajectory["w"])) == (
                TrialStatus.PAUSED,
                8 * until,
                8 * until,
            )
            assert result.averages
            assert result.test == {}
    heard = Heard()
    run_cohort(configs, Normed(), CPU, heard, kept(storage, configs), together)
    for config in configs:
        result = heard.results[config.identity]
        assert result.resumed == [8, 16]
        result.resumed = []
        check_same(heard, config, Normed(), len(configs) if together else 1, close=1e-5 if together else 1e-12)


def test_a_trial_without_checkpoints_may_pause_too() -> None:
    (config,) = cohort_of(ONE_OF_EACH[0])
    assert run_trial(config, Normed(), lambda _: None, CPU, until=1).status == TrialStatus.PAUSED
    assert run_trial(config, Normed(), lambda _: None, CPU, until=99).status == "finished"


# --- over Ray and MLflow


@pytest.mark.slow
def test_a_study_with_a_short_search_and_halving(tmp_path: Path) -> None:
    case = Case(tmp_path, workers=1)
    case.study(
        cohort=4, epochs=4, static={"points": 12}, search={"epochs": 2, "full": 4, "halving": 2}, checkpoint_seconds=0
    )
    finished, printed = case.run()
    assert finished.complete
    assert (finished.failed, finished.diverged) == ({}, {})
    assert "worker died" not in printed
    runs = {run.info.run_name: run for run in case.runs()}
    status = {name: run.data.tags["gradsweep.status"] for name, run in runs.items() if name.startswith("static/")}
    searched = {name: s for name, s in status.items() if name.endswith("seed 0")}
    assert len(searched) == 12 - 1 or len(searched) == 12
    assert set(searched.values()) == {"stopped", "finished"}
    assert list(searched.values()).count("finished") == -(-len(searched) // 2)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert sum(name.startswith("full/") for name in runs) == 4
    epochs = {name: run.data.params["epochs"] for name, run in runs.items()}
    assert {epochs[name] for name in searched} == {"2"}
    assert {value for name, value in epochs.items() if name.startswith("full/") or "seed 1" in name} == {"4"}
    assert list(finished.comparison.search["kind"]).count("full") == 4
    alarms = " ".join(finished.comparison.alarms)
    assert "static points were stopped early" in alarms
    assert "the search used short runs" in alarms
    assert not list((case.results / "checkpoints").glob("*/*.ckpt"))
    again, _ = case.run()
    assert (again.ran, again.complete) == (0, True)
