"""Trials that have ended and that MLflow does not hold yet, on this machine's disk: written first, delivered then.

Each is a folder, complete or not there, whose name gives the order. What is delivered is removed; a driver killed in
between delivers once more, which MLflow's writer makes harmless.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hpo.plan import Planned
from hpo.records import EpochReport, TrialConfig, TrialResult

TRAJECTORY = "trajectory.parquet"
TRIAL = "trial.json"


@dataclass
class Entry:
    """A trial that has ended.

    Attributes:
        planned: the trial.
        launch: the parent run.
        started: milliseconds since the epoch.
        ended: the same.
        result: without its trajectory.
        epochs: its reports.
        folder: where the journal keeps it, and its trajectory if it has one.
    """

    planned: Planned
    launch: str
    started: int
    ended: int
    result: TrialResult
    epochs: list[EpochReport] = field(default_factory=list)
    folder: Path | None = None

    @property
    def trajectory(self) -> Path | None:
        """The file that goes to MLflow as an artifact."""
        return self.folder / TRAJECTORY if self.folder and (self.folder / TRAJECTORY).exists() else None


class Journal:
    """Entries in a folder, oldest first.

    Args:
        folder: made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def add(self, entry: Entry) -> Entry:
        """Keep an entry, in place of older ones of its trial; returns it with its folder, without its trajectory.

        Raises:
            OSError: the folder cannot be written.
        """
        self._count += 1
        name = f"{time.time_ns():020d}-{self._count:06d}-{entry.planned.config.identity}"
        scratch = self.folder / f".{name}"
        try:
            scratch.mkdir(parents=True)
            kept = replace(entry, result=replace(entry.result, trajectory={}), folder=self.folder / name)
            if trajectory := write_trajectory(entry.result, scratch):
                _sync(trajectory)
            (scratch / TRIAL).write_text(json.dumps(_content(kept)), encoding="utf-8")
            _sync(scratch / TRIAL)
            older = list(self.folder.glob(f"*-{entry.planned.config.identity}"))
            _sync(scratch)
            scratch.rename(self.folder / name)
            _sync(self.folder)
            for folder in older:  # a trial that failed and ran again: were the failure delivered last, it would count
                _forget(folder)
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return kept

    def entries(self) -> list[Entry]:
        """What waits, oldest first; what cannot be read is left where it is."""
        if not self.folder.is_dir():
            return []
        folders = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        return [entry for folder in folders if (entry := _read(folder)) is not None]

    def tidy(self) -> None:
        """Remove what a killed driver left half written. Only for who holds the study's lock."""
        for half in self.folder.glob(".*"):
            shutil.rmtree(half, ignore_errors=True)
        with suppress(OSError):  # it is not empty, or not there
            self.folder.rmdir()

    def __len__(self) -> int:
        """How many wait."""
        return sum(not path.name.startswith(".") for path in self.folder.iterdir()) if self.folder.is_dir() else 0

    def remove(self, entry: Entry) -> None:
        """Forget an entry that was delivered."""
        if entry.folder is not None:
            _forget(entry.folder)
            with suppress(OSError):  # it is not empty
                self.folder.rmdir()


def _forget(folder: Path) -> None:
    """Remove an entry; one that cannot be removed is delivered once more, which does no harm."""
    with suppress(OSError):
        (folder / TRIAL).unlink(missing_ok=True)  # first: without it the folder is no entry
    shutil.rmtree(folder, ignore_errors=True)


def _content(entry: Entry) -> dict[str, Any]:
    planned = entry.planned
    return {
        "config": asdict(planned.config),
        "phase": planned.phase,
        "arm": planned.arm,
        "launch": entry.launch,
        "started": entry.started,
        "ended": entry.ended,
        "result": asdict(entry.result),
        "epochs": [asdict(report) for report in entry.epochs],
    }


def _read(folder: Path) -> Entry | None:
    try:
        content: Mapping[str, Any] = json.loads((folder / TRIAL).read_text(encoding="utf-8"))
        return Entry(
            Planned(TrialConfig(**content["config"]), content["phase"], content["arm"]),
            content["launch"],
            content["started"],
            content["ended"],
            TrialResult(**content["result"]),
            [EpochReport(**report) for report in content["epochs"]],
            folder,
        )
    except FileNotFoundError:
        shutil.rmtree(folder, ignore_errors=True)  # delivered, and the driver killed while it removed it
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_trajectory(result: TrialResult, folder: Path) -> Path | None:
    """Write the file that goes to MLflow as an artifact; ``None`` if the trial has no trajectory."""
    if not result.trajectory:
        return None
    _table(result).to_parquet(folder / TRAJECTORY, index=False)
    return folder / TRAJECTORY


def _table(result: TrialResult) -> pd.DataFrame:
    tasks = list(result.initial_losses)
    columns = {"step": result.trajectory["step"]}
    for name in ("w", "G", "r", "L"):
        columns |= {f"{name}/{task}": result.trajectory[name][:, i] for i, task in enumerate(tasks)}
    return pd.DataFrame(columns)


def _sync(path: Path) -> None:
    """Have a file or a folder's names on the disk, so that a power cut does not take them."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
