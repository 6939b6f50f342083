"""``gradsweep report``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hpo.cli.options import (
    DEFAULT_OUTPUT,
    Baseline,
    ImageFormat,
    Limits,
    Output,
    Priorities,
    StudyFile,
    TrackingUri,
    console,
    study_keys,
)
from hpo.cli.verdict import print_verdict


def report(
    study: StudyFile,
    folder: Annotated[
        Path | None, typer.Option("-o", metavar="DIR", help="Where to; default: the study's output folder.")
    ] = None,
    figures: Annotated[
        ImageFormat | None,
        typer.Option(help="Write the figures as image files too, into report/figures; takes Chrome or Chromium."),
    ] = None,
    baseline: Baseline = None,
    priority: Priorities = None,
    limit: Limits = None,
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write report and tables again from the trials in MLflow, whether the study is finished or not."""
    from hpo.api import Study

    found = Study.load(study, **study_keys(baseline, priority, limit))
    result = found.result(output=output, tracking_uri=tracking_uri, console=console)
    print_verdict(result.write(folder, figures), output, tracking_uri)
