"""Trials as rows of the table that `hpo.compare` reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from hpo.compare import TRIAL_COLUMNS, Scoring, at_selected_epochs
from hpo.core.arm import Arm
from hpo.core.trial import AVERAGES, EpochMetrics, PlannedTrial, TrialResult
from hpo.study.plan import sweep_parameters


def trial_table(trials: Iterable[tuple[PlannedTrial, TrialResult]], scoring: Scoring) -> pd.DataFrame:
    """Return one row per trial, with the metrics of the epoch that counts.

    Args:
        trials: with their results.
        scoring: how each task is measured.
    """
    tasks = tuple(scoring)
    groups = ("train", "val", "test", *AVERAGES)
    columns = [
        *TRIAL_COLUMNS,
        "together",
        "epoch",
        "learning_rate",
        *(f"{group}/{task}" for group in groups for task in tasks),
    ]
    rows = [row for planned, result in trials for row in _rows(planned, result, tasks)]
    return at_selected_epochs(pd.DataFrame(rows, columns=columns), scoring)


def _rows(planned: PlannedTrial, result: TrialResult, tasks: Sequence[str]) -> Iterator[dict[str, object]]:
    """Yield a row for each epoch that may be the best, or one of the last epoch."""
    same = _row(planned, result, tasks)
    if not (result.best_epochs and result.status.has_score):
        yield same | _metrics(result, tasks) | {"epoch": np.nan}
        return
    for found in result.best_epochs:
        yield same | _metrics(found, tasks) | {"epoch": found.epoch}


def _metrics(found: TrialResult | EpochMetrics, tasks: Sequence[str]) -> dict[str, float]:
    groups = {"train": found.train, "val": found.validation, "test": found.test}
    return {f"{split}/{task}": values.get(task, np.nan) for split, values in groups.items() for task in tasks}


def _row(planned: PlannedTrial, result: TrialResult, tasks: Sequence[str]) -> dict[str, object]:
    """Return the columns of a row that do not depend on the epoch."""
    config = planned.config
    parameters = sweep_parameters(config)
    arm = Arm.parse(planned.arm)
    averages = {name: result.averages.get(name, {}) for name in AVERAGES}
    return {
        "identity": config.identity,
        "arm": planned.arm,
        "phase": planned.phase,
        "search": planned.is_search,
        "kind": arm.kind,
        "recipe": arm.recipe,
        "alpha": parameters.get("alpha", np.nan),
        "learning_rate": parameters.get("learning_rate", np.nan),
        "seed": config.seed,
        "status": result.status,
        "steps": result.steps,
        "seconds": result.seconds,
        "together": result.together,
        "alarms": "\n".join(result.alarms),
        **{f"{name}/{task}": w.get(task, np.nan) for name, w in averages.items() for task in tasks},
    }
