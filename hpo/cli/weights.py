"""``gradsweep weights``"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

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
    ProblemName,
    Settings,
    Storage,
    TrackingUri,
    Wait,
    console,
    interruptible,
    settings_of,
    study_keys,
)
from hpo.cli.verdict import print_verdict
from hpo.core.errors import OutputError


def weights(
    problem: ProblemName,
    settings: Settings = None,
    baseline: Baseline = None,
    priority: Priorities = None,
    limit: Limits = None,
    refine: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Try up to N more points around the best so far; 0, or at least 4."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Fresh seeds on which the best arms are compared; default: 3.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("-o", metavar="FILE", help="Copy the weights file here, over an existing file."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the study; default: weights- and the problem's name.")
    ] = None,
    address: Address = None,
    wait: Wait = 0.0,
    storage: Storage = None,
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Find loss weights in a few runs, without a study file, a grid or a sweep.

    Trains GradNorm once per alpha, its average weights, first-step weights, equal weights and yours, lets the close
    ones race over seeds, and compares the best with equal weights and yours on fresh seeds. The same command again
    resumes; with other options it goes on from what has run. An option that is left out stays as it was, one that is
    given replaces the earlier one as a whole. The study file that it writes can be extended by a grid (`static`) or a
    sweep (`gradnorm`) and run.
    """
    from hpo.api.weights import keep_study, kept_options, refuse_faults, weights_study

    if file is not None:
        _refuse_unwritable(file)
    key = {"name": problem, **settings_of(settings or [])}
    options = {"seeds": seeds, "refine": refine, **study_keys(baseline, priority, limit)}
    study = weights_study(key, name, output, options)
    finished = None
    with suppress(KeyboardInterrupt), interruptible():
        title = f"gradsweep {__version__}: weights for {problem}"
        console.print(title, highlight=False, markup=False, soft_wrap=True)
        if kept := kept_options(study, options):
            console.print(f"as in an earlier call: {kept}", highlight=False, markup=False, soft_wrap=True)
        console.print("checking the problem ...", highlight=False)
        refuse_faults(study, key)
        path = keep_study(study, output)
        places: dict[str, Any] = {"output": output, "tracking_uri": tracking_uri, "storage": storage}
        finished = study.run(address, wait=wait, console=console, **places).finished
    if finished is None:
        console.print("\nStopped. What has finished is kept; the same command goes on from here.", style="bold")
        raise typer.Exit(STOPPED)
    if file is not None and finished.weights is not None:
        _copy(finished.weights, file)
    print_verdict(finished, output, tracking_uri, path)


def _refuse_unwritable(target: Path) -> None:
    """Refuse a place for the weights file before anything is trained for it."""
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    reason = ""
    if target.is_dir() or not folder.is_dir():
        reason = os.strerror(errno.EISDIR if target.is_dir() else errno.ENOTDIR)
    elif not os.access(target if target.exists() else folder, os.W_OK):
        reason = os.strerror(errno.EACCES)
    if reason:
        raise OutputError(f"-o: {target} cannot be written: {reason}")


def _copy(weights_file: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(weights_file, target)
    except OSError as error:
        raise OutputError(f"-o: {error.filename or target} cannot be written: {error.strerror}") from None
