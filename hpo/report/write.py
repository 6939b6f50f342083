"""Write the report's files, each under a temporary name first, so that a reader never sees half of one."""

from __future__ import annotations

import os
from pathlib import Path

from hpo.report.data import ReportData
from hpo.report.markdown import markdown
from hpo.report.page import page
from hpo.report.tables import all_trials, arms_numbers


def write_report(data: ReportData, folder: Path) -> dict[str, Path]:
    """Write ``report.html``, ``report.md``, ``arms.csv`` and ``trials.csv`` into a folder, which is made if missing.

    Returns:
        The files by what they are: ``html``, ``markdown``, ``arms``, ``trials``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "html": ("report.html", page(data)),
        "markdown": ("report.md", markdown(data)),
        "arms": ("arms.csv", arms_numbers(data.comparison).to_csv(index=False)),
        "trials": ("trials.csv", all_trials(data).to_csv(index=False)),
    }
    return {name: _write(folder / file, content) for name, (file, content) in contents.items()}


def _write(path: Path, content: str) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
