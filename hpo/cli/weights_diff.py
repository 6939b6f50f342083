"""``gradsweep weights-diff``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from hpo.cli.options import DEFAULT_OUTPUT, Output, TrackingUri, console

if TYPE_CHECKING:
    from hpo.launch.weights_diff import WeightsDiff

_HELP = "a path, runs:/RUN_ID/path, models:/NAME/VERSION, or an address such as s3://bucket/weights.json"


def weights_diff(
    a: Annotated[str, typer.Argument(metavar="A", help=f"Weights file: {_HELP}.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Weights file to compare it with.")],
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
) -> None:
    """Show two weights files side by side: weights, how far they are apart, and where they come from."""
    from hpo.launch.weights_diff import weights_diff as compare
    from hpo.launch.workspace import place

    _print(compare(a, b, place(output, tracking_uri)))


def _print(diff: WeightsDiff) -> None:
    weights = _table("A", "B", "B / A")
    for task, (one, other) in diff.weights.items():
        weights.add_row(task, f"{one:.4g}", f"{other:.4g}", f"{other / one:.3g}")
    console.print(weights)
    far = diff.distance
    console.print(
        f"\nAitchison distance {far.aitchison:.3g}; no weight differs by more than a factor of {far.factor:.3g}.\n"
    )
    origin = _table("A", "B")
    for field, pair in {"file": diff.files, **diff.origin}.items():
        origin.add_row(field, *pair)
    console.print(origin)
    if diff.same_data is False:
        console.print("\nThe files come from different problems or data, so their scores cannot be compared.")


def _table(*columns: str) -> Table:
    """Return a table whose first column has no title."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right")
    return table
