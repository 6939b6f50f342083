"""Checkpoints of a trial, from which it continues bit for bit: complete files with a checksum, safe to read."""

from __future__ import annotations

import hashlib
import io
import time
from contextlib import suppress
from typing import Any

import torch

from hpo.core.storage import Storage
from hpo.core.text import message, one_line
from hpo.core.user_calls import is_interrupt
from hpo.training.kept_folder import KeptFolder

MAGIC = b"gradsweep checkpoint 1\n"
KEPT = 2  # the newest, and one in reserve
COST = 50  # minimum time between checkpoints, in durations of one: at most 2% of the time is spent on them
MARKER = "shared-by-all-nodes"  # a file that the driver puts in the storage


class Checkpoints:
    """The checkpoints of one trial, ``<storage>/<identity>/<steps>.ckpt``.

    A file is a magic line, the sha256 of the rest, and the rest as `torch.save` writes it. Reading one runs no code:
    ``weights_only=True``.

    Args:
        storage: of the study.
        identity: of the trial.
        seconds: between two checkpoints, at least.
        together: number of trials that write checkpoints at the same time, including this one.
    """

    def __init__(self, storage: Storage, identity: str, seconds: float, together: int = 1) -> None:
        self._storage, self._folder, self._seconds = storage, identity, seconds
        self.together = together
        self._last, self._cost = time.monotonic(), 0.0
        self._broken = False
        self.warnings: list[str] = []  # for the user

    @property
    def due(self) -> bool:
        """Return whether it is time for the next one."""
        wait = max(self._seconds, COST * self._cost * self.together)
        return not self._broken and time.monotonic() - self._last >= wait

    def save(self, steps: int, state: dict[str, Any]) -> None:
        """Write a checkpoint and remove others. An error here does not end the trial."""
        start, written = time.monotonic(), _file_name(steps)
        try:
            self._storage.write(f"{self._folder}/{written}", _encoded(state))
            names = self._names()
            kept = [name for name in names if name <= written][-KEPT:]  # later ones belong to an abandoned run
            for name in set(names).difference(kept):
                self._storage.remove(f"{self._folder}/{name}")
        except BaseException as error:  # from the storage, or from torch, which cannot write every state of user code
            if is_interrupt(error):
                raise
            self._broken = True  # do not try again: each failure takes as long
            self._warn(f"no more checkpoints, since one could not be written to {self._storage}: {_line(error)}")
        self._last = time.monotonic()
        self._cost = self._last - start

    def latest(self, at_most: int | None = None) -> dict[str, Any] | None:
        """Return the newest intact checkpoint, ``None`` if there is none.

        Args:
            at_most: the largest number of steps that the checkpoint may have.
        """
        try:
            names = self._names()
        except OSError as error:
            self._warn(f"began at the first step, since {self._storage} could not be read: {_line(error)}")
            return None
        if at_most is not None:
            names = [name for name in names if name <= _file_name(at_most)]
        for name in reversed(names):
            try:
                return _decoded(self._storage.read(f"{self._folder}/{name}"))
            except (OSError, ValueError) as error:
                self._warn(f"checkpoint {name} is damaged and was skipped: {_line(error)}")
        return None

    def folder(self, uploads: bool = True) -> KeptFolder:
        """Return a folder for other files of the trial, removed with them; see `KeptFolder` for ``uploads``."""
        return KeptFolder(self._storage, f"{self._folder}/files", self._seconds, uploads)

    def remove(self) -> None:
        """Remove all of them."""
        remove(self._storage, self._folder)

    def _warn(self, text: str) -> None:
        if text not in self.warnings:  # a trial of a cohort may be resumed twice
            self.warnings.append(text)

    def _names(self) -> list[str]:
        return [name for name in self._storage.names(self._folder) if name.endswith(".ckpt")]


def _file_name(steps: int) -> str:
    return f"{steps:012d}.ckpt"


def remove(storage: Storage, identity: str) -> None:
    """Remove the checkpoints of a trial; what cannot be removed stays."""
    with suppress(OSError):
        storage.remove(identity)


def mark_shared(storage: Storage) -> None:
    """Write a file by which a worker sees that its node shares the storage; trials report if it cannot be written."""
    with suppress(OSError):
        storage.write(MARKER, b"")


def _encoded(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return MAGIC + hashlib.sha256(content).digest() + content


def _decoded(content: bytes) -> dict[str, Any]:
    """Return the state in a file's content; raise ValueError if the file is damaged."""
    start = len(MAGIC) + hashlib.sha256().digest_size
    if not content.startswith(MAGIC):
        raise ValueError("it does not begin as a checkpoint does")
    if hashlib.sha256(content[start:]).digest() != content[len(MAGIC) : start]:
        raise ValueError("its checksum is wrong")
    try:
        state = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        raise ValueError(f"torch cannot read it: {error}") from None
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}")
    return state


def _line(error: BaseException) -> str:
    return message(error) or one_line(error)
