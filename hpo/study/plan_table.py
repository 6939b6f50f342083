"""A study's plan as tables."""

from __future__ import annotations

import pandas as pd

from hpo.study.plan import EQUAL, Plan
from hpo.study.schedule import Schedule


def phases_table(schedule: Schedule) -> pd.DataFrame:
    """Return a table of the phases that the study has: maximum numbers of arms and trials, and a description."""
    rows = [(phase.name, *phase.size(), phase.describe()) for phase in schedule.phases if phase.size()[1]]
    return pd.DataFrame(rows, columns=["phase", "arms", "trials", "what"])


def points_table(plan: Plan) -> pd.DataFrame:
    """Return the points of the static search that are known beforehand: for each arm the weight of each task."""
    rows = []
    for candidate in [EQUAL, *plan.static_points()] if plan.study.static else []:
        weights = candidate.settings.get("weights", dict.fromkeys(plan.tasks, 1.0))
        rows.append([candidate.arm.key, *(weights[task] for task in plan.tasks)])
    return pd.DataFrame(rows, columns=["arm", *plan.tasks])


def arguments_table(plan: Plan) -> pd.DataFrame:
    """Return the sets of arguments of a tuned study, the problem's own first; empty for other studies."""
    return pd.DataFrame([found.values for found in plan.sets.values()] if plan.is_tuned else [])


def epochs_in_words(schedule: Schedule) -> str:
    """Describe the epochs of a whole study; the maximum, where points are stopped early."""
    plan = schedule.plan
    total = sum(phase.most_epochs for phase in schedule.phases)
    most = "at most " if plan.study.search.halving else ""
    each = f"{plan.epochs} per trial"
    if plan.search_epochs < plan.epochs:
        each = f"{plan.search_epochs} per trial of the search, {plan.epochs} of the others"
    return f"{most}{total} epochs, {each}"


def needs_in_words(plan: Plan) -> str:
    """Describe the resources of each trial and the equivalence margin of the verdict."""
    resources = plan.study.resources
    needs = f"{resources.cpu:g} CPU" + (f", {resources.gpu:g} GPU" if resources.gpu else "")
    if resources.workers > 1:
        needs = f"{resources.workers} processes of {needs}"
    alone = " A training function trains one trial at a time." if plan.is_function else ""
    if resources.workers > 1 and not plan.is_function:
        alone = " Trials of several processes are trained one at a time."
    return f"Each trial takes {needs}.{alone} Equivalence margin: {plan.study.margin:g} % of score."
