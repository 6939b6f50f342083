"""Trials of several processes without Ray."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hpo.core.place import Place
from hpo.core.trial import EpochReport, EventKind, TrialConfig, TrialResult, TrialStatus, WorkerTask
from hpo.problems import load_problem
from hpo.training.rank_training import train_rank
from hpo.training.ranks import listening
from tests.helpers.small_problem import SETTINGS

torch.optim.SGD([torch.zeros(1, requires_grad=True)]).step()  # loads what every process would load anew
HOST = "127.0.0.1"
SECONDS = 300


def rank_config(function: str, size: int, method: str = "equal", **arguments: Any) -> TrialConfig:
    """Return a trial of a function of `tests.helpers.rank_functions`."""
    target = f"tests.helpers.rank_functions:{function}"
    found = load_problem(target, arguments)
    settings = SETTINGS[method]
    return TrialConfig(target, arguments, found.data_hash(), method, settings, 5, found.epochs, True, workers=size)


def run_in_ranks(trial: TrialConfig, storage: str, until: int = 3) -> list[tuple[TrialResult, list[Any]]]:
    """Train a trial in its processes; return each one's result and reports.

    If a process fails, the others are ended, and theirs are missing.
    """
    task = WorkerTask([trial.identity], [asdict(trial)], [until], trial.problem, [], 1.0, 0.0, 0.0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.rank_trials", "tests.helpers.rank_functions"])
    port, results = context.Queue(), context.Queue()
    processes = [
        context.Process(target=_work, args=(task, storage, rank, trial.workers, port, results), daemon=True)
        for rank in range(trial.workers)
    ]
    found = {}
    with _running(processes):
        port.put(port.get(timeout=SECONDS))
        while len(found) < trial.workers:
            rank, result, reports = results.get(timeout=SECONDS)
            found[rank] = result, reports
            if result.status is TrialStatus.FAILED:
                break
    return [found[rank] for rank in sorted(found)]


def trained_in_ranks(trial: TrialConfig) -> tuple[list[EpochReport], TrialResult]:
    """Train a trial in its processes; return its epochs and its result."""
    with TemporaryDirectory() as storage:
        (result, told), *_ = run_in_ranks(trial, storage, trial.epochs)
    events = [event for report in told for event in report["events"]]
    return [event.content for event in events if event.kind is EventKind.EPOCH], result


@contextmanager
def _running(processes: list[Any]) -> Iterator[None]:
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _work(task: WorkerTask, storage: str, rank: int, size: int, ports: Any, results: Any) -> None:
    torch.set_num_threads(1)
    store = listening(HOST) if rank == 0 else None
    if store is not None:
        ports.put(store.port)
        port = store.port
    else:
        ports.put(port := ports.get(timeout=SECONDS))
    told: list[Any] = []
    result = train_rank(task, storage, Place(rank, size, rank, size, 0, HOST, port), store, told.append)
    results.put((rank, result, told))
