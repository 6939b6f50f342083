"""``gradsweep run``"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import typer

from hpo import __version__
from hpo.cli.options import (
    DEFAULT_OUTPUT,
    STOPPED,
    Address,
    Baseline,
    Limits,
    Output,
    Priorities,
    Storage,
    StudyFile,
    TrackingUri,
    Wait,
    console,
    interruptible,
    study_keys,
)
from hpo.cli.verdict import print_verdict


def run(
    study: StudyFile,
    address: Address = None,
    wait: Wait = 0.0,
    storage: Storage = None,
    baseline: Baseline = None,
    priority: Priorities = None,
    limit: Limits = None,
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Run a study, or the rest of it: the same command again resumes an interrupted study.

    No finished trial runs twice; an interrupted trial continues from its last checkpoint. Ctrl-C stops cleanly. At
    the end the command prints the verdict and the places of report, weights file and MLflow UI. The exit code is 1 if
    a trial failed or diverged.
    """
    from hpo.launch.output_lock import refuse_second_launch

    refuse_second_launch(study, output)
    finished = None
    with suppress(KeyboardInterrupt), interruptible():
        console.print(f"gradsweep {__version__}: {study}", highlight=False, markup=False, soft_wrap=True)
        from hpo.api import Study

        places: dict[str, Any] = {"output": output, "tracking_uri": tracking_uri, "storage": storage}
        found = Study.load(study, **study_keys(baseline, priority, limit))
        finished = found.run(address, wait=wait, console=console, **places).finished
    if finished is None:
        console.print("\nStopped. Finished trials are kept; the same command continues the study.", style="bold")
        raise typer.Exit(STOPPED)
    if not finished.ran:
        console.print("Every trial of this study has finished; nothing was run.")
    print_verdict(finished, output, tracking_uri)
