"""A plan as tables: what a study would run."""

from __future__ import annotations

import pandas as pd

from hpo.core.trial import Phase
from hpo.study.plan import Plan


def phases_table(plan: Plan) -> pd.DataFrame:
    """For each phase its arms and trials, at most, and what they are."""
    what = _what(plan)
    rows = [(str(phase), arms, trials, what[phase]) for phase, (arms, trials) in plan.size().items()]
    return pd.DataFrame(rows, columns=["phase", "arms", "trials", "what"])


def points_table(plan: Plan) -> pd.DataFrame:
    """The points of the static search: for each arm the weight of each task."""
    rows = []
    for planned in plan.static():
        weights = planned.config.settings.get("weights", dict.fromkeys(plan.tasks, 1.0))
        rows.append([planned.arm, *(weights[task] for task in plan.tasks)])
    return pd.DataFrame(rows, columns=["arm", *plan.tasks])


def epochs_in_words(plan: Plan) -> str:
    """The epochs of a whole study, in words; at most, where points are stopped early."""
    trials = [*plan.references(), *plan.static(), *plan.full()]
    search = sum(planned.config.epochs for planned in trials) + plan.size()[Phase.SWEEP][1] * plan.search_epochs
    total = search + plan.size()[Phase.CONFIRM][1] * plan.epochs
    most = "at most " if plan.study.search.halving else ""
    each = f"{plan.epochs} a trial"
    if plan.search_epochs < plan.epochs:
        each = f"{plan.search_epochs} a trial of the search, {plan.epochs} of the others"
    return f"{most}{total} epochs, {each}"


def needs_in_words(plan: Plan) -> str:
    """What each trial takes, and the margin that the verdict allows, in words."""
    resources = plan.study.resources
    needs = f"{resources.cpu:g} CPU" + (f", {resources.gpu:g} GPU" if resources.gpu else "")
    return f"Each trial takes {needs}. Equivalence margin: {plan.study.margin:g} % of score."


def _what(plan: Plan) -> dict[Phase, str]:
    spec, size = plan.study, plan.size()
    return {
        Phase.REFERENCES: f"{', '.join(spec.references)}; seed {spec.seed}",
        Phase.STATIC: f"{'explicit points' if spec.static.explicit else spec.static.design}; seed {spec.seed}"
        + (f"; of {spec.search.halving} one goes on, rung by rung" if spec.search.halving else "")
        + (f"; {len(plan.full())} of them to the end too" if plan.full() else ""),
        Phase.SWEEP: f"alpha {spec.gradnorm.alpha[0]:g} to {spec.gradnorm.alpha[1]:g}, "
        f"{spec.gradnorm.trials} trials for each of {', '.join(spec.gradnorm.recipes)}; seed {spec.seed}",
        Phase.CONFIRM: f"at most {size[Phase.CONFIRM][0]} arms on seeds {spec.confirm_seeds.start} to "
        f"{spec.confirm_seeds.stop - 1}; test split",
    }
