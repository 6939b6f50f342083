"""The folder in which the user gave the command; the current folder of a worker is another, which Ray removes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_told: Path | None = None  # in a worker


def command_folder() -> Path:
    """Return the folder in which the command was given."""
    return _told or Path.cwd()


def tell_command_folder(folder: str | Path | None) -> None:
    """Record the folder in which the command was given; ``None`` for this process's current one."""
    global _told
    _told = Path(folder) if folder else None


@contextmanager
def in_another_folder() -> Iterator[None]:
    """Make an empty folder the current one inside the block, as the worker of a study has another one."""
    before, told_before = Path.cwd(), _told
    with tempfile.TemporaryDirectory(prefix="gradsweep-worker-") as folder:
        tell_command_folder(command_folder())
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            tell_command_folder(told_before)
