"""The table behind the page's sliders: what each task loses or gains with each set of fixed weights."""

from __future__ import annotations

from typing import Any

import pandas as pd

from hpo.compare import Comparison
from hpo.compare.limits import kept_arms
from hpo.compare.tradeoffs import arm_tradeoffs, point_tradeoffs
from hpo.core.number_format import weight
from hpo.report.arm_labels import arm_label

SLIDER = 3.0  # the largest priority of a slider, unless the study has a larger one


def exploration(comparison: Comparison) -> dict[str, Any] | None:
    """Return the tasks with their priorities, and the arms and points to choose from; ``None`` without a choice.

    The page's script scores them with the reader's priorities: ``sum_i p_i change_i / sum_i p_i``, plus ``added``.
    """
    scoring = comparison.scoring
    arms = arm_tradeoffs(comparison.confirm, scoring, kept_arms(comparison.limits, scoring))
    points = point_tradeoffs(comparison.search, scoring)
    measured = [task for task in scoring if f"change/{task}" in (arms if len(arms) else points)]
    if len(measured) < 2 or (arms.empty and points.empty):
        return None
    largest = max([SLIDER, *(scoring[task].priority for task in measured)])
    return {
        "tasks": [{"name": task, "priority": scoring[task].priority} for task in measured],
        "largest": largest,
        "groups": [
            _group("arms", "the recommended arm", arms, measured, comparison.tasks),
            _group("points", "the best on the search seed", points, measured, comparison.tasks),
        ],
    }


def _group(name: str, words: str, table: pd.DataFrame, measured: list[str], tasks: tuple[str, ...]) -> dict[str, Any]:
    known = all(f"change/{task}" in table for task in measured)
    rows = [
        {
            "arm": row["arm"],
            "label": arm_label(row["arm"]),
            "weights": ", ".join(f"{task} {weight(row[f'w/{task}'])}" for task in tasks),
            "changes": [float(row[f"change/{task}"]) for task in measured],
            "added": float(row["added"]),
        }
        for row in (table.to_dict("records") if known else ())
    ]
    return {"name": name, "words": words, "rows": rows}
