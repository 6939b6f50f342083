"""The outbox: ended trials on this machine's disk, written there first and then delivered to MLflow.

Each entry is a folder, complete or absent, whose name gives the order. A delivered entry is removed; if the driver is
killed before that, the entry is delivered again, which is harmless because writing to MLflow is idempotent. Each
entry has a checksum of its content: a damaged one is set aside, and its trial runs again.
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
MAGIC = b"gradsweep trial 2 "  # then the sha256 of the rest and of the trajectory; version 1 was only the JSON
DAMAGED = "damaged"  # the folder, beside the outbox, for damaged entries


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
        folder: of the outbox entry, with the trajectory if there is one.
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
        """The trajectory file, an artifact in MLflow."""
        return self.folder / TRAJECTORY if self.folder and (self.folder / TRAJECTORY).exists() else None


class Outbox:
    """Entries in a folder, oldest first.

    Args:
        folder: created with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._names: dict[str, list[str]] | None = None  # of entries, removed ones too, by identity

    def add(self, entry: EndedTrial) -> EndedTrial:
        """Store an entry in place of older ones of its trial; return it with its folder and without its trajectory.

        Raises:
            OSError: the folder cannot be written.
        """
        self._count += 1
        identity = entry.planned.config.identity
        name = f"{time.time_ns():020d}-{self._count:06d}-{identity}"
        if self._names is None:  # once: a backlog may be long, and nobody else adds to it
            self._names = self._listed()
        older = [self.folder / other for other in self._names.get(identity, [])]
        kept = replace(entry, result=replace(entry.result, trajectory={}), folder=self.folder / name)
        with whole_folder(self.folder / name) as scratch:
            write_trajectory(entry.result, scratch)
            body = json.dumps(_content(kept)).encode()
            (scratch / TRIAL).write_bytes(_head(body, scratch) + b"\n" + body)
        for folder in older:  # a trial that failed and ran again: a failure delivered last would win
            _forget(folder)
        self._names[identity] = [name]
        return kept

    def _listed(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        for folder in self._folders():
            names.setdefault(folder.name.rpartition("-")[2], []).append(folder.name)
        return names

    def entries(self) -> list[EndedTrial]:
        """Return the waiting entries, oldest first, without damaged ones."""
        return [entry for folder in self._folders() if (entry := _read(folder)) is not None]

    def set_aside_damaged(self) -> list[Path]:
        """Move unreadable entries and entries with a wrong checksum to a folder beside the outbox.

        Call it only while holding the study's lock.

        Returns:
            The new path of each.
        """
        moved = []
        for folder in self._folders():
            if _read(folder) is None and folder.exists():
                target = self.folder.parent / DAMAGED / folder.name
                with suppress(OSError):  # it stays there and is skipped
                    target.parent.mkdir(exist_ok=True)
                    moved.append(folder.rename(target))
        return moved

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))

    def tidy(self) -> None:
        """Remove incomplete entries of a killed driver. Call it only while holding the study's lock."""
        for half in self.folder.glob(".*"):
            shutil.rmtree(half, ignore_errors=True)
        with suppress(OSError):  # not empty, or absent
            self.folder.rmdir()

    def __len__(self) -> int:
        """The number of waiting entries."""
        return len(self._folders())

    def remove(self, entry: EndedTrial) -> None:
        """Remove a delivered entry."""
        if entry.folder is not None:
            _forget(entry.folder)
            with suppress(OSError):  # not empty
                self.folder.rmdir()


def _forget(folder: Path) -> None:
    """Remove an entry; if that fails, it is delivered again, which is harmless."""
    with suppress(OSError):
        (folder / TRIAL).unlink(missing_ok=True)  # first: without it the folder is not an entry
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
        shutil.rmtree(folder, ignore_errors=True)  # delivered, but the driver was killed while removing it
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _checked_content(folder: Path) -> Mapping[str, Any]:
    """Read the JSON of an entry; raise ValueError if it is damaged."""
    body = (folder / TRIAL).read_bytes()
    if not body.startswith(b"{"):  # written by a version without checksums
        head, _, body = body.partition(b"\n")
        if head != _head(body, folder):
            raise ValueError("its checksum is wrong")
    content: Mapping[str, Any] = json.loads(body)
    return content


def _head(body: bytes, folder: Path) -> bytes:
    """Return the first line of an entry: the checksum of its JSON and of its trajectory, if it has one."""
    digest = hashlib.sha256(body)
    with suppress(FileNotFoundError):
        digest.update((folder / TRAJECTORY).read_bytes())
    return MAGIC + digest.hexdigest().encode()


def write_trajectory(result: TrialResult, folder: Path) -> Path | None:
    """Write the artifact file of a trajectory; ``None`` if the trial has none."""
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
