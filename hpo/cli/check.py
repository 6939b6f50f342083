"""``gradsweep check``"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from hpo.cli.options import BAD_INPUT, ProblemName, Settings, console, settings_of

if TYPE_CHECKING:
    from hpo.check.problem_check import Finding

STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def check(
    problem: ProblemName,
    settings: Settings = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="Where to train: cpu, cuda, cuda:1, ...; default: a GPU if torch sees one."
        ),
    ] = None,
) -> None:
    """Run one step of everything on a problem and report faults, before a study trains it many times.

    The exit code is 2 if there is a fault, with which a study would fail; a warning may be intended. Nothing is
    written except the data that the problem itself prepares.
    """
    arguments = settings_of(settings or [])
    with _spinner() as tell:
        from hpo.api import check as look

        title = Text(f"{problem}: one step of everything\n", "italic")
        shown: list[Finding] = []

        def show(finding: Finding) -> None:
            """Print a finding below the title, which waits for the first: bad input has none."""
            if not shown:
                console.print(title)
            shown.append(finding)
            console.print(_row(finding))

        result = look({"name": problem, **arguments}, device=device, tell=tell, on_finding=show)
    console.print()
    console.print(result.counts, style="bold", highlight=False)
    if result.faults:
        raise typer.Exit(BAD_INPUT)


def _row(finding: Finding) -> Table:
    """A finding as a line of a table whose other lines are not known yet."""
    found = f"{finding.found}\nallowed: {finding.allowed}" if finding.allowed else finding.found
    row = Table(box=None, show_header=False)
    row.add_column(width=len("warning"))
    row.add_column(width=len("shared layer"), overflow="fold")
    row.add_column(overflow="fold")
    row.add_row(Text(finding.level, STYLES[finding.level]), finding.subject, Text(found))
    return row


@contextmanager
def _spinner() -> Iterator[Callable[[str], object]]:
    """Show a spinner while checks run; yield a function that is called with the name of each check."""
    if not console.is_terminal:
        yield str
        return
    with console.status("importing torch") as status:
        yield lambda subject: status.update(f"looking at: {subject}")
