"""``gradsweep plan``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from hpo.cli.options import StudyFile, console

if TYPE_CHECKING:
    from hpo.study.plan import Plan  # pandas and torch take seconds to import
    from hpo.study.schedule import Schedule


def plan(study: StudyFile) -> None:
    """Show what a study would run: arms, trials, epochs, resources. Runs nothing."""
    from hpo.launch.restore import open_plan
    from hpo.study.schedule import Schedule

    found = open_plan(study, prepare=False)
    schedule = Schedule(found, runs=False)
    console.print(_phases(schedule))
    console.print(_points(found, schedule))
    spec = found.study
    needs = f"{spec.resources.cpu:g} CPU" + (f", {spec.resources.gpu:g} GPU" if spec.resources.gpu else "")
    console.print(f"Each trial takes {needs}. Equivalence margin: {spec.margin:g} % of score.")


def _phases(schedule: Schedule) -> Table:
    """One line per phase, and their sum."""
    spec = schedule.plan.study
    title = f"{spec.name}: {spec.problem.name}, {len(schedule.plan.tasks)} tasks"
    table = Table(title=title, title_justify="left")
    for column in ("phase", "arms", "trials", "what"):
        table.add_column(column, justify="right" if column in ("arms", "trials") else "left")
    for phase in schedule.phases:
        arms, trials = phase.size()
        table.add_row(phase.name, str(arms), str(trials), phase.describe())
    table.add_section()
    table.add_row("all", "", str(schedule.size), _epochs(schedule))
    return table


def _epochs(schedule: Schedule) -> str:
    """The epochs of a whole study, in words; at most, where points are stopped early."""
    found = schedule.plan
    total = sum(phase.most_epochs for phase in schedule.phases)
    most = "at most " if found.study.search.halving else ""
    each = f"{found.epochs} per trial"
    if found.search_epochs < found.epochs:
        each = f"{found.search_epochs} per trial of the search, {found.epochs} of the others"
    return f"{most}{total} epochs, {each}"


def _points(found: Plan, schedule: Schedule) -> Table:
    """The weights of each static point."""
    points = Table(title="static points", title_justify="left")
    for column in ("arm", *found.tasks):
        points.add_column(column, justify="left" if column == "arm" else "right")
    for planned in schedule.planned():
        weights = planned.config.settings.get("weights")
        if planned.is_search and (weights or planned.config.method == "equal"):
            weights = weights or dict.fromkeys(found.tasks, 1.0)
            points.add_row(planned.arm, *(f"{weights[task]:.4g}" for task in found.tasks))
    return points
