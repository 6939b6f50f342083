"""Trials that have ended and that MLflow does not hold yet, on this machine's disk: written first, delivered then.

Each is a folder, complete or not there, whose name gives the order. What is delivered is removed; a driver killed in
between delivers once more, which MLflow's writer makes harmless. An entry carries the checksum of all that it holds:
one that the disk has damaged is set aside, and its trial runs again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from hpo.core.files import whole_folder
from hpo.core.trial import EpochReport, PlannedTrial, TrialConfig, TrialResult

TRAJECTORY = "trajectory.parquet"
TRIAL = "trial.json"
MAGIC = b"gradsweep trial 2 "  # then the sha256 of the rest and of the trajectory; version 1 was the JSON alone
DAMAGED = "damaged"  # the folder, beside the outbox, for entries that cannot be trusted


@dataclass
class EndedTrial:
    """A trial that has ended.

    Attributes:
        planned: the trial.
        launch: the parent run.
        started: milliseconds since the epoch.
        ended: the same.
        result: without its trajectory.
        epochs: its reports.
        folder: where the outbox keeps it, and its trajectory if it has one.
    """

    planned: PlannedTrial
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


class Outbox:
    """Entries in a folder, oldest first.

    Args:
        folder: made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def add(self, entry: EndedTrial) -> EndedTrial:
        """Keep an entry, in place of older ones of its trial; returns it with its folder, without its trajectory.

        Raises:
            OSError: the folder cannot be written.
        """
        self._count += 1
        name = f"{time.time_ns():020d}-{self._count:06d}-{entry.planned.config.identity}"
        older = list(self.folder.glob(f"*-{entry.planned.config.identity}"))
        kept = replace(entry, result=replace(entry.result, trajectory={}), folder=self.folder / name)
        with whole_folder(self.folder / name) as scratch:
            write_trajectory(entry.result, scratch)
            body = json.dumps(_content(kept)).encode()
            (scratch / TRIAL).write_bytes(_head(body, scratch) + b"\n" + body)
        for folder in older:  # a trial that failed and ran again: were the failure delivered last, it would count
            _forget(folder)
        return kept

    def entries(self) -> list[EndedTrial]:
        """The waiting entries, oldest first; damaged ones are passed over."""
        return [entry for folder in self._folders() if (entry := _read(folder)) is not None]

    def set_aside_damaged(self) -> list[Path]:
        """Move the entries that cannot be read, or whose checksum is wrong, into a folder beside the outbox.

        Only for who holds the study's lock.

        Returns:
            Where each is now.
        """
        moved = []
        for folder in self._folders():
            if _read(folder) is None and folder.exists():
                target = self.folder.parent / DAMAGED / folder.name
                with suppress(OSError):  # it stays where it is, and is passed over
                    target.parent.mkdir(exist_ok=True)
                    moved.append(folder.rename(target))
        return moved

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))

    def tidy(self) -> None:
        """Remove what a killed driver left half written. Only for who holds the study's lock."""
        for half in self.folder.glob(".*"):
            shutil.rmtree(half, ignore_errors=True)
        with suppress(OSError):  # it is not empty, or not there
            self.folder.rmdir()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._folders())

    def remove(self, entry: EndedTrial) -> None:
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


def _content(entry: EndedTrial) -> dict[str, Any]:
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


def _read(folder: Path) -> EndedTrial | None:
    try:
        content = _checked_content(folder)
        return EndedTrial(
            PlannedTrial(TrialConfig(**content["config"]), content["phase"], content["arm"]),
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
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _checked_content(folder: Path) -> Mapping[str, Any]:
    """The JSON of an entry; ValueError if it is not what was written."""
    body = (folder / TRIAL).read_bytes()
    if not body.startswith(b"{"):  # as a version without checksums wrote it
        head, _, body = body.partition(b"\n")
        if head != _head(body, folder):
            raise ValueError("its checksum is wrong")
    content: Mapping[str, Any] = json.loads(body)
    return content


def _head(body: bytes, folder: Path) -> bytes:
    """The first line of an entry: the checksum of its JSON and of its trajectory, if it has one."""
    digest = hashlib.sha256(body)
    with suppress(FileNotFoundError):
        digest.update((folder / TRAJECTORY).read_bytes())
    return MAGIC + digest.hexdigest().encode()


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
