"""``gradsweep plan``"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from hpo.cli.options import StudyFile, console
from hpo.core.trial import Phase

if TYPE_CHECKING:
    from hpo.study.plan import Plan  # pandas and torch take seconds to import


def _epochs(plan: Plan) -> str:
    """The epochs of a whole study, in words; at most, where points are stopped early."""
    trials = [*plan.references(), *plan.static(), *plan.full()]
    search = sum(planned.config.epochs for planned in trials) + plan.size()[Phase.SWEEP][1] * plan.search_epochs
    total = search + plan.size()[Phase.CONFIRM][1] * plan.epochs
    most = "at most " if plan.study.search.halving else ""
    each = f"{plan.epochs} a trial"
    if plan.search_epochs < plan.epochs:
        each = f"{plan.search_epochs} a trial of the search, {plan.epochs} of the others"
    return f"{most}{total} epochs, {each}"


def plan(study: StudyFile) -> None:
    """Show what a study would run: arms, trials, epochs, resources. Runs nothing."""
    from hpo.launch.restore import open_plan

    found = open_plan(study, prepare=False)
    spec, size = found.study, found.size()
    table = Table(title=f"{spec.name}: {spec.problem.name}, {len(found.tasks)} tasks", title_justify="left")
    for column in ("phase", "arms", "trials", "what"):
        table.add_column(column, justify="right" if column in ("arms", "trials") else "left")
    what = {
        Phase.REFERENCES: f"{', '.join(spec.references)}; seed {spec.seed}",
        Phase.STATIC: f"{'explicit points' if spec.static.explicit else spec.static.design}; seed {spec.seed}"
        + (f"; of {spec.search.halving} one goes on, rung by rung" if spec.search.halving else "")
        + (f"; {len(found.full())} of them to the end too" if found.full() else ""),
        Phase.SWEEP: f"alpha {spec.gradnorm.alpha[0]:g} to {spec.gradnorm.alpha[1]:g}, "
        f"{spec.gradnorm.trials} trials for each of {', '.join(spec.gradnorm.recipes)}; seed {spec.seed}",
        Phase.CONFIRM: f"at most {size[Phase.CONFIRM][0]} arms on seeds {spec.confirm_seeds.start} to "
        f"{spec.confirm_seeds.stop - 1}; test split",
    }
    for phase, (arms, trials) in size.items():
        table.add_row(phase, str(arms), str(trials), what[phase])
    total = sum(trials for _, trials in size.values())
    table.add_section()
    table.add_row("all", "", str(total), _epochs(found))
    console.print(table)
    points = Table(title="static points", title_justify="left")
    for column in ("arm", *found.tasks):
        points.add_column(column, justify="left" if column == "arm" else "right")
    for planned in found.static():
        weights = planned.config.settings.get("weights", dict.fromkeys(found.tasks, 1.0))
        points.add_row(planned.arm, *(f"{weights[task]:.4g}" for task in found.tasks))
    console.print(points)
    needs = f"{spec.resources.cpu:g} CPU" + (f", {spec.resources.gpu:g} GPU" if spec.resources.gpu else "")
    console.print(f"Each trial takes {needs}. Equivalence margin: {spec.margin:g} % of score.")
