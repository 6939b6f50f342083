"""``gradsweep check``"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from hpo.cli.options import BAD_INPUT, console, settings_of


def check(
    problem: Annotated[
        str,
        typer.Argument(
            metavar="NAME|package.module:Class", help="Name of a problem that `gradsweep problems` lists, or a class."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An argument of the problem, as a study file has it under `problem`; may be given several times.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="DEVICE", help="Where to train: cpu, cuda, cuda:1, ...; default: a GPU if torch sees one."
        ),
    ] = None,
) -> None:
    """Run one step of everything on a problem and say what is missing, before a study trains it many times.

    Exit code 2 if there is a fault, which a study would fail by; a warning may be meant. Nothing is written but what
    the problem itself prepares.
    """
    arguments = settings_of(settings or [])
    with _spinner() as tell:
        from hpo.api import check as look

        result = look({"name": problem, **arguments}, device=device, tell=tell)
    styles = {"ok": "green", "warning": "yellow", "fault": "bold red"}
    table = Table(title=f"{problem}: one step of everything", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "what", "found, and what is allowed"):
        table.add_column(column, overflow="fold")
    for finding in result.findings:
        found = f"{finding.found}\nallowed: {finding.allowed}" if finding.allowed else finding.found
        table.add_row(Text(finding.level, styles[finding.level]), finding.subject, found)
    console.print(table)
    console.print(result.counts, style="bold", highlight=False)
    if result.faults:
        raise typer.Exit(BAD_INPUT)


@contextmanager
def _spinner() -> Iterator[Callable[[str], object]]:
    """Something moves while a check takes its time; what it yields is told which."""
    if not console.is_terminal:
        yield str
        return
    with console.status("importing torch") as status:
        yield lambda subject: status.update(f"looking at: {subject}")
