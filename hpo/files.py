"""Files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path


class OutputError(RuntimeError):
    """The output folder cannot be used."""


def write_text(path: Path, text: str) -> Path:
    """Write a text file under a temporary name and rename it, so that a reader never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
