"""Trials as rows of the table that `hpo.compare` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hpo.compare import TRIAL_COLUMNS
from hpo.core.arm import Arm
from hpo.core.trial import AVERAGES, PlannedTrial, TrialResult
from hpo.study.plan import sweep_parameters


def trial_table(trials: Iterable[tuple[PlannedTrial, TrialResult]], tasks: Sequence[str]) -> pd.DataFrame:
    """Return one row per trial."""
    groups = ("train", "val", "test", *AVERAGES)
    columns = [
        *TRIAL_COLUMNS,
        "together",
        "learning_rate",
        *(f"{group}/{task}" for group in groups for task in tasks),
    ]
    return pd.DataFrame([_row(planned, result, tasks) for planned, result in trials], columns=columns)


def _row(planned: PlannedTrial, result: TrialResult, tasks: Sequence[str]) -> dict[str, object]:
    config = planned.config
    parameters = sweep_parameters(config)
    arm = Arm.parse(planned.arm)
    groups = {
        "train": result.train,
        "val": result.validation,
        "test": result.test,
        **{name: result.averages.get(name, {}) for name in AVERAGES},
    }
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
        **{f"{group}/{task}": values.get(task, np.nan) for group, values in groups.items() for task in tasks},
    }
