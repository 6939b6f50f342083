"""``gradsweep plan``"""

from __future__ import annotations

from rich.table import Table

from hpo.cli.options import Baseline, StudyFile, baseline_of, console


def plan(study: StudyFile, baseline: Baseline = None) -> None:
    """Show what a study would run: arms, trials, epochs, resources. Runs nothing."""
    from hpo.api import Study

    found = Study.load(study, **baseline_of(baseline)).plan()
    table = Table(title=found.title, title_justify="left")
    for column in map(str, found.phases):
        table.add_column(column, justify="right" if column in ("arms", "trials") else "left")
    for _, row in found.phases.iterrows():
        table.add_row(*map(str, row))
    table.add_section()
    table.add_row("all", "", str(found.trials), found.epochs)
    console.print(table)
    points = Table(title="static points", title_justify="left")
    for column in map(str, found.points):
        points.add_column(column, justify="left" if column == "arm" else "right")
    for _, (arm, *weights) in found.points.iterrows():
        points.add_row(arm, *(f"{weight:.4g}" for weight in weights))
    console.print(points)
    console.print(found.needs)
