"""Write the report's files, each under a temporary name first, so that no reader sees an incomplete file."""

from __future__ import annotations

from pathlib import Path

from hpo.core.files import write_whole
from hpo.report.comparison_json import document_text
from hpo.report.html_page import page
from hpo.report.markdown import markdown
from hpo.report.report_data import ReportData
from hpo.report.tables import all_trials, arms_numbers


def write_report(data: ReportData, folder: Path) -> dict[str, Path]:
    """Write ``report.html``, ``report.md``, ``comparison.json``, ``arms.csv``, ``trials.csv`` into a folder.

    The folder is created if missing.

    Returns:
        The files by kind: ``html``, ``markdown``, ``json``, ``arms``, ``trials``.
    """
    contents = {
        "html": ("report.html", page(data)),
        "markdown": ("report.md", markdown(data)),
        "json": ("comparison.json", document_text(data)),
        "arms": ("arms.csv", arms_numbers(data.comparison).to_csv(index=False)),
        "trials": ("trials.csv", all_trials(data).to_csv(index=False)),
    }
    return {name: write_whole(folder / file, content) for name, (file, content) in contents.items()}
