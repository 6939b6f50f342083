"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4


def temporary_name(name: str) -> str:
    """A hidden name that no other process takes, on this machine or on another that shares the disk."""
    return f".{name}.{uuid4().hex}"


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


def write_text(path: Path, text: str) -> Path:
    """Write a text file under a temporary name and rename it, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
