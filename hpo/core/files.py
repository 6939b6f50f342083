"""Files and folders that are whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name and rename it, so that a reader never sees half of one.

    Args:
        path: whose folder is made if it is not there.
        content: text is written as UTF-8.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path.name))
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(temporary)  # else a power cut may leave the new name with half of its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name, which is hidden and beside it, and rename it in the end.

    Args:
        path: which must not be there yet, or be empty.

    Yields:
        The folder to write to. What an exception leaves in it is removed.

    Raises:
        OSError: it cannot be written, or ``path`` is there.
    """
    scratch = path.with_name(_temporary_name(path.name))
    try:
        scratch.mkdir(parents=True)
        yield scratch
        for part in (*scratch.rglob("*"), scratch):
            sync(part)
        scratch.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk, so that a power cut does not take them.

    Raises:
        OSError: the disk does not take it.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _temporary_name(name: str) -> str:
    """A hidden name that no other process takes, on this machine or on another that shares the disk."""
    return f".{name}.{uuid4().hex}"
