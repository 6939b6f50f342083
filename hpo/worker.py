"""A worker's side of a study: train the trials it is given and report. Needs torch alone; knows no scheduler."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch

from hpo.checkpoint import MARKER, Checkpoints
from hpo.problem import Problem
from hpo.problems import load_problem
from hpo.problems.data import prepare_once
from hpo.records import EpochReport, TrialConfig, TrialResult
from hpo.storage import Storage
from hpo.trial import run_trial

MOST_REPORTS = 50  # a trial; each costs the driver some milliseconds

Report = Callable[[dict[str, Any]], None]


def train_cohort(config: Mapping[str, Any], report: Report) -> None:
    """Train each config of a cohort and report its epochs and its result.

    Args:
        config: ``cohort`` (configs as mappings), ``identities``, ``import_paths``, ``cpu`` and ``gpu`` for each,
            ``target`` (the problem as ``package.module:Class``, so that the node needs not know its name),
            ``storage`` and ``checkpoint_seconds``.
        report: takes ``identity`` with ``epoch`` or ``result``, each in a list, since Tune flattens mappings, or with
            ``resumed``, the steps of the checkpoint that a trial goes on from.

    Raises:
        RuntimeError: the config is not the one that was asked for.
    """
    for path in config["import_paths"]:
        if path not in sys.path:
            sys.path.append(path)  # the user's problem; never before what is installed
    torch.set_num_threads(max(1, int(config["cpu"])))
    storage = Storage(config["storage"])
    for identity, settings in zip(config["identities"], config["cohort"], strict=True):
        trial = TrialConfig(**settings)
        if trial.identity != identity:
            raise RuntimeError(f"asked to run trial {identity}, got the config of {trial.identity}")
        checkpoints = Checkpoints(storage, identity, config["checkpoint_seconds"])
        result = _train_one(trial, config, checkpoints, report)
        result.alarms += _not_shared(storage)
        if result.status == "failed":
            checkpoints.remove()  # it runs again with something mended, and so from its first step
        report({"identity": identity, "result": [vars(result)]})


def _train_one(
    trial: TrialConfig, config: Mapping[str, Any], checkpoints: Checkpoints, report: Report
) -> TrialResult:
    device, note = _device(config["gpu"])
    every = -(-trial.epochs // MOST_REPORTS)

    def pass_on(epoch: EpochReport) -> None:
        if epoch.epoch % every == 0 or epoch.epoch == epoch.epochs:
            report({"identity": trial.identity, "epoch": [vars(epoch)]})

    def resumed(steps: int) -> None:
        report({"identity": trial.identity, "resumed": steps})

    try:
        problem = _prepared(config["target"], _Frozen(trial.arguments))
        found = problem.data_hash()
        if found != trial.data_hash:
            raise RuntimeError(f"the data of this node have hash {found}, the study's have {trial.data_hash}")
    except Exception as error:
        return TrialResult("failed", error=f"{type(error).__name__}: {error}")
    result = run_trial(trial, problem, pass_on, device, checkpoints, resumed)
    result.alarms += [note] if note else []
    return result


def _not_shared(storage: Storage) -> list[str]:
    """The driver has put a file there that every node should see."""
    try:
        storage.read(MARKER)
    except FileNotFoundError:
        found = (
            f"its node does not share {storage} with the driver, so that no other node can go on from its checkpoints"
        )
        return [f"{found}: name a shared folder or a bucket with --storage"]
    except OSError:
        return []  # the checkpoints say so themselves
    return []


def _device(gpu: float) -> tuple[torch.device, str]:
    if gpu and torch.cuda.is_available():
        return torch.device("cuda", 0), ""  # Ray shows a worker only its own
    note = f"was given {gpu:g} GPU that torch cannot see on this node and trained on the CPU" if gpu else ""
    return torch.device("cpu"), note


class _Frozen(dict[str, Any]):
    """Arguments as a key of the cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@lru_cache(maxsize=2)
def _prepared(name: str, arguments: _Frozen) -> Problem:
    """The problem, once a process; its data once a machine."""
    problem = load_problem(name, arguments)
    prepare_once(problem)
    return problem
