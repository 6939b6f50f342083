"""A finished study in an output folder that version 0.1 wrote, so that a test needs no Ray to have results."""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).resolve().parents[1] / "hpo" / "launch" / "data" / "output-0.1.tar.xz"
NAME = "before-packages"  # of the study


def unpack_output(folder: Path) -> None:
    """Lay the study file ``study.yaml`` and its folder ``gradsweep-output`` into a folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
