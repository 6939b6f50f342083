"""``gradsweep plan``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from hpo.cli.options import Baseline, Limits, Priorities, StudyFile, console, study_keys

if TYPE_CHECKING:
    import pandas as pd


def plan(study: StudyFile, baseline: Baseline = None, priority: Priorities = None, limit: Limits = None) -> None:
    """Show what a study would run: arms, trials, epochs, resources. Runs nothing."""
    from hpo.api import Study

    found = Study.load(study, **study_keys(baseline, priority, limit)).plan()
    table = Table(title=found.title, title_justify="left")
    for column in map(str, found.phases):
        table.add_column(column, justify="right" if column in ("arms", "trials") else "left")
    for _, row in found.phases.iterrows():
        table.add_row(*map(str, row))
    table.add_section()
    table.add_row("all", "", str(found.trials), found.epochs)
    console.print(table)
    if len(found.points):
        console.print(_numbers("static points", found.points))
    if len(found.arguments):
        console.print(_numbers("sets of arguments, the problem's own first", found.arguments))
    console.print(found.needs)


def _numbers(title: str, found: pd.DataFrame) -> Table:
    table = Table(title=title, title_justify="left")
    for column in map(str, found):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for _, row in found.iterrows():
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    return table
