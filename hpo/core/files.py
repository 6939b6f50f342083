"""Atomic writes: files and folders that are complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, content: str | bytes) -> Path:
    """Write a file under a temporary name and rename it, so that a reader never sees a partial file.

    Args:
        path: of the file; its folder is created if needed.
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
    """Fill a folder under a hidden temporary name beside it, and rename it at the end.

    Args:
        path: of the folder, which must be absent or empty.

    Yields:
        The folder to write to. It is removed if an exception is raised.

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
    """Flush a file's content, or the names in a folder, to the disk, so that they survive a power cut.

    Raises:
        OSError: the disk cannot write it.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _temporary_name(name: str) -> str:
    """Return a hidden name that no other process uses, on this machine or on another that shares the disk."""
    return f".{name}.{uuid4().hex}"
