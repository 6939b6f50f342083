"""Trials that kill their worker: the one of a cohort that does is identified, and only it fails; over Ray too."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.execution.attempts import RETRIES, Attempt, next_attempts
from tests.helpers.hostile_problems import DEEDS
from tests.helpers.runs import Case, main
from tests.helpers.undisturbed import Undisturbed

# --- what is handed out again


def deaths_of(cohort: list[Any], culprits: set[Any], one_by_one: bool) -> tuple[dict[Any, int], set[Any], int]:
    """Hand out a cohort until every trial has ended: deaths of those that failed, those that finished, attempts."""
    waiting = deque([(cohort, 0)])
    failed: dict[Any, int] = {}
    finished: set[Any] = set()
    attempts = 0
    while waiting:
        trials, deaths = waiting.popleft()
        attempts += 1
        attempt, left = Attempt(trials, deaths), list(trials)
        while left and one_by_one and left[0] not in culprits:
            finished.add(left.pop(0))
            attempt.deaths = 0
        if culprits.isdisjoint(left):
            finished.update(left)
            continue
        attempt.deaths += 1
        groups = next_attempts(attempt, left)
        if not groups:
            assert trials == left == [left[0]]
            failed[left[0]] = attempt.deaths
        waiting.extend(groups)
    return failed, finished, attempts


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))), st.booleans())
def test_only_trials_that_kill_their_worker_fail(case: tuple[int, set[int]], one_by_one: bool) -> None:
    count, culprits = case
    failed, finished, attempts = deaths_of(list(range(count)), culprits, one_by_one)
    assert failed == dict.fromkeys(culprits, RETRIES + 1)
    assert finished == set(range(count)) - culprits
    assert attempts <= 1 + len(culprits) * (RETRIES + 2 * count.bit_length() + 3)


def test_a_cohort_is_retried_once_unchanged_and_then_in_halves() -> None:
    trials: list[Any] = list("abcde")
    assert next_attempts(Attempt(trials, 1), trials) == [(trials, 1)]
    assert next_attempts(Attempt(trials, 2), trials) == [(["a", "b", "c"], 2), (["d", "e"], 2)]
    assert next_attempts(Attempt(trials, 2), ["e"]) == [(["e"], 0)]
    assert next_attempts(Attempt(["d", "e"], 3), ["d", "e"]) == [(["d"], 0), (["e"], 0)]
    assert next_attempts(Attempt(["e"], 2), ["e"]) == [(["e"], 2)]
    assert next_attempts(Attempt(["e"], 3), ["e"]) == []


def test_a_cohort_that_takes_too_long_continues_in_halves() -> None:
    trials: list[Any] = list("abc")
    assert next_attempts(Attempt(trials, 1, late=True), trials) == [(["a", "b"], 1), (["c"], 0)]


# --- over Ray and MLflow

POINTS = [0.2, 0.4, 0.6, 0.8, 1.2, 1.4, 1.6, 1.7, 1.75, 1.8, 1.9]  # weights of `near`
HOSTILE = dict(zip(map(str, POINTS), list(DEEDS), strict=True))
CRASHES = "the worker ended 3 times without progress: "
FAILS = {
    "exits at once": CRASHES,
    "crashes": CRASHES,
    "SystemExit": "SystemExit: 0",
    "KeyboardInterrupt": "KeyboardInterrupt: a signal that was none",
    "GeneratorExit": "GeneratorExit",
    "StopIteration": "StopIteration",
    "unspeakable": "UnspeakableError: its text cannot be read, since __str__ raised SystemExit",
    "long": "ValueError: xxx",
    "odd": "ValueError: \\ud800 \\x00 ",
    "spoils": "RuntimeError: ",  # its own next step finds what it has left behind
}
METRICS = ("final_val/near", "final_val/far off", "mean_w_tail/near", "test/near", "steps")


def study(folder: Path, deeds: dict[str, str], **changes: Any) -> Case:
    case = Case(folder)
    case.study(
        seeds=1,
        problem={"name": "tests.helpers.hostile_problems:Hostile", "folder": str(folder), "deeds": deeds},
        references=["single_task"],
        static=[[weight, 2 - weight] for weight in [*POINTS, 0.5, 1.5]],
        gradnorm={"recipes": ["robust"], "trials": 1},
        confirm={"top_static": 1, "averages": ["tail"]},
        **changes,
    )
    return case


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """The metrics of each trial, by its name, where none does anything unusual."""
    found = Undisturbed(study(tmp_path_factory.mktemp("undisturbed"), {}, cohort=1))
    return {planned.name: found.last(identity) for identity, (planned, _, _) in found.trials.items()}


@pytest.mark.chaos
@pytest.mark.slow
@pytest.mark.timeout(900)  # dozens of workers die
@pytest.mark.parametrize("cohort", [1, 4])
def test_hostile_trials_fail_by_name_and_the_others_are_unaffected(
    cohort: int,
    undisturbed: dict[str, dict[str, float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = study(tmp_path, HOSTILE, cohort=cohort)
    monkeypatch.chdir(tmp_path)
    code, out, err = main(capsys, "run", "study.yaml")
    assert (code, err) == (1, "")
    found = re.search(r"^(\d+) trials failed; the same command tries again:\n((?:  .*\n)+)", out, re.MULTILINE)
    assert found, out
    errors = [line.strip().partition(" seed 0: ")[2] for line in found[2].splitlines()]
    runs = {run.info.run_name: run for run in case.runs()}
    failed = {name for name, run in runs.items() if run.data.tags["gradsweep.status"] == "failed"}
    assert len(errors) == len(failed) == len(FAILS)
    for text in FAILS.values():
        found_error = next((error for error in errors if error.startswith(text)), None)
        assert found_error is not None, (text, errors)
        errors.remove(found_error)  # so that each is one trial's
    deeds = (tmp_path / "deeds").read_text().splitlines()
    assert set(deeds) == set(DEEDS)
    fixed = [name for name in undisturbed if "gradnorm" not in name and name not in failed and name in runs]
    assert len(fixed) >= 4
    for name in fixed:
        for metric in METRICS:
            one, other = (values.get(metric) for values in (dict(runs[name].data.metrics), undisturbed[name]))
            assert one == (other if cohort == 1 else other and pytest.approx(other, rel=1e-3)), (name, metric)
    identities = [run.data.tags["gradsweep.identity"] for run in runs.values()]
    assert len(set(identities)) == len(identities)
    assert not case.processes()
