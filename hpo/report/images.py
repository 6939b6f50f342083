"""The figures as files for a paper, drawn by Plotly in the system's Chrome through kaleido."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from hpo.core.errors import ImageError
from hpo.report.figures import figures_of
from hpo.report.figures.style import TEMPLATES
from hpo.report.report_data import ReportData

FORMATS = ("svg", "png", "pdf")
_WIDTH = 900  # pixels; a narrow figure would put its legend over itself


def draw(data: ReportData) -> dict[str, go.Figure]:
    """Draw every figure that the study has data for, by name, on white."""
    drawn = {name: figure for name, module in figures_of(data).items() if (figure := module.figure(data)) is not None}
    for figure in drawn.values():
        figure.update_layout(template=go.layout.Template(TEMPLATES["light"]), paper_bgcolor="white")
    return drawn


def write_images(data: ReportData, folder: Path, format: str) -> list[Path]:
    """Write every figure that the study has data for as ``<name>.<format>`` into a folder, on white.

    Args:
        data: data of the report.
        folder: created if missing.
        format: one of `FORMATS`.

    Raises:
        ImageError: kaleido or Chrome is missing.
    """
    try:
        import kaleido  # noqa: F401 - plotly imports it itself, with a longer message
    except ImportError:
        raise ImageError("--figures: needs the package kaleido: pip install 'gradsweep[figures]'") from None
    drawn = draw(data)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        made = [Path(place) / f"{name}.{format}" for name in drawn]
        try:
            figures = list(drawn.values())
            heights = [figure.layout.height for figure in figures]  # write_images ignores the layout's height
            scale = 2 if format == "png" else 1
            plotly.io.write_images(figures, made, scale=scale, width=_WIDTH, height=heights)
        except RuntimeError as error:
            if "Chrome" not in str(error) and type(error).__name__ != "BrowserFailedError":
                raise
            raise ImageError("--figures: needs Chrome or Chromium, and found none that starts") from None
        return [Path(shutil.move(one, folder / one.name)) for one in made]
