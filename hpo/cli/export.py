"""``gradsweep export``"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hpo.cli.options import (
    DEFAULT_OUTPUT,
    Baseline,
    Limits,
    Output,
    Priorities,
    StudyFile,
    TrackingUri,
    console,
    study_keys,
)
from hpo.cli.verdict import print_answer
from hpo.core.errors import OutputError

if TYPE_CHECKING:
    from hpo.compare import Comparison


def export(
    study: StudyFile,
    arm: Annotated[
        str | None, typer.Option(metavar="ARM", help="An arm with fixed weights; default: the recommended one.")
    ] = None,
    file: Annotated[Path, typer.Option("-o", metavar="FILE", help="The weights file to write.")] = Path(
        "weights.json"
    ),
    register: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Also add the file to MLflow's model registry, as the next version of NAME."
        ),
    ] = None,
    baseline: Baseline = None,
    priority: Priorities = None,
    limit: Limits = None,
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Write the weights file for production training: `balancers.Static.load("weights.json")`."""
    from hpo.api import Study

    if register is not None:
        from hpo.tracking.registered_weights import check_name

        check_name(register)
    found = Study.load(study, **study_keys(baseline, priority, limit))
    result = found.result(output=output, tracking_uri=tracking_uri, console=console)
    content = result.outcome.weights_content(arm)
    try:
        result.export(file, arm)
    except OutputError as error:
        raise OutputError(f"-o: {error}") from None
    _exported(file, content, None if arm else result.comparison)
    if register is not None:
        _registered(result.register(register, arm), result.outcome.where.shown)


def _exported(file: Path, content: Mapping[str, Any], comparison: Comparison | None) -> None:
    """Describe an exported weights file and, given a comparison, a better arm that cannot be exported."""
    weights = ", ".join(f"{task} {weight:g}" for task, weight in content["weights"].items())
    console.print(f"{file}: {content['arm']}: {weights}", highlight=False, soft_wrap=True)
    if comparison is not None:
        from hpo.report import moving_winner

        if answer := moving_winner(comparison):
            print_answer(answer)


def _registered(address: str, uri: str) -> None:
    """Describe a version in MLflow and the code that loads it."""
    console.print(f"{address}: registered in MLflow at {uri}", highlight=False, soft_wrap=True)
    console.print(f'  balancer = Static.load("{address}")', highlight=False, soft_wrap=True)
