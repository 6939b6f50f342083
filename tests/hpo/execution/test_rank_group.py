"""The processes of a trial in Ray: one that fails or dies takes the trial with it, and none is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from hpo.core.trial import EventKind, TrialConfig, TrialResult, TrialStatus, WorkerTask
from hpo.execution.rank_group import train_in_ranks
from hpo.execution.ray_start import start_ray
from tests.helpers.rank_trials import rank_config
from tests.helpers.runs import wait_until

pytestmark = pytest.mark.slow


class Worker:
    """The worker of Tune, without Tune."""

    def train(self, trial: TrialConfig, storage: str) -> list[Any]:
        """Return the events of a trial."""
        task = WorkerTask([trial.identity], [asdict(trial)], [trial.epochs], trial.problem, [], 1.0, 0.0, 0.0)
        told: list[Any] = []
        train_in_ranks(task, storage, b"", told.append)
        return [event for report in told for event in report["events"]]


@pytest.fixture(scope="module")
def placement() -> Iterator[Any]:
    start_ray("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    placement = placement_group([{"CPU": 1}] * 2)
    ray.get(placement.ready())
    yield placement
    ray.shutdown()


@pytest.fixture
def worker(placement: Any) -> Iterator[Any]:
    strategy = PlacementGroupSchedulingStrategy(placement)
    worker = ray.remote(Worker).options(num_cpus=0, scheduling_strategy=strategy, max_restarts=0).remote()
    yield worker
    ray.kill(worker)
    wait_until(lambda: not ranks(), what="the end of the processes")


def ranks() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if "RankProcess" in " ".join(process.cmdline()) else []
        except psutil.Error:
            continue
    return found


def result_of(events: list[Any]) -> TrialResult:
    assert events[-1].kind is EventKind.RESULT
    found: TrialResult = events[-1].content
    return found


def test_processes_are_kept_for_the_next_trial_until_one_fails(worker: Any, tmp_path: Path) -> None:
    def trained(function: str, **arguments: Any) -> TrialResult:
        return result_of(ray.get(worker.train.remote(rank_config(function, 2, **arguments), str(tmp_path))))

    first = trained("shared")
    kept = {process.pid for process in ranks()}
    assert len(kept) == 2
    again = trained("shared")
    assert (first.status, first.validation) == (TrialStatus.FINISHED, again.validation)
    assert {process.pid for process in ranks()} == kept
    broken = trained("apart", fault="raises")
    assert (broken.status, broken.error.partition("\n")[0]) == (
        TrialStatus.FAILED,
        "rank 1 of 2: KeyError: 'on rank 1'",
    )
    of_first = trained("apart", fault="reports_wrong")
    assert of_first.error.startswith("ValueError: trial.report(): expected a number for each of the tasks near, far")
    assert trained("shared").validation == first.validation
    assert len(kept & {process.pid for process in ranks()}) == 0


@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.chaos), 1])
def test_a_process_that_dies_ends_the_attempt_and_the_others(killed: int, worker: Any, tmp_path: Path) -> None:
    trial = rank_config("shared", 2, folder=str(tmp_path), kill=killed)
    with pytest.raises(ray.exceptions.RayTaskError, match=f"rank {killed} of 2 has died") as died:
        ray.get(worker.train.remote(trial, str(tmp_path)))
    assert "SYSTEM_ERROR" in str(died.value)
    wait_until(lambda: not ranks(), what="the end of the other process")
    assert result_of(ray.get(worker.train.remote(trial, str(tmp_path)))).resumed in ([8], [16])


def test_a_worker_that_dies_takes_its_processes_with_it(worker: Any, tmp_path: Path) -> None:
    running = worker.train.remote(rank_config("apart", 2, fault="waits", folder=str(tmp_path)), str(tmp_path))
    wait_until(
        lambda: len([*tmp_path.glob("waits-*")]) == 2 or ray.wait([running], timeout=0)[0], what="the processes"
    )
    assert len(ranks()) == 2
    ray.kill(worker)
    wait_until(lambda: not ranks(), what="the end of the processes")
