"""The weights file, which production training reads with `balancers.Static.load`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from balancers.weights_file import SCHEMA, VERSION
from hpo.compare import Comparison, interval
from hpo.core.arm import FIXED, Arm
from hpo.core.errors import ExportError
from hpo.core.files import write_whole
from hpo.study.plan import Plan, short_weights

PACKAGES = ("gradsweep", "torch", "ray", "optuna", "mlflow", "numpy", "pandas")


def weights_content(plan: Plan, comparison: Comparison, arm: str | None, runs: Mapping[str, str]) -> dict[str, Any]:
    """Return the content of an arm's weights file.

    Args:
        plan: the study.
        comparison: of its trials.
        arm: the arm's name; ``None`` takes the recommended one.
        runs: the MLflow run of each trial, by identity.

    Raises:
        ExportError: the arm does not exist, or a weights file cannot hold it.
    """
    arms, name = comparison.arms, arm or comparison.recommended
    allowed = (
        list(arms.loc[arms["kind"].isin(FIXED) & arms["w/" + plan.tasks[0]].notna(), "arm"]) if len(arms) else []
    )
    if not name:
        raise ExportError("no arm with fixed weights has finished the confirm phase; finish the study: gradsweep run")
    if name not in allowed:
        raise ExportError(f"--arm: expected {', '.join(allowed) or 'a trial that has ended first'}, got {name!r}")
    row = arms.loc[arms["arm"] == name].iloc[0]
    trials = comparison.confirm[comparison.confirm["arm"] == name]
    return {
        **_weights(plan, row),
        "recommended": name == comparison.recommended,
        **_limits(comparison, name),
        "method": row["kind"],
        **_gradnorm(row, comparison),
        "runs": [runs[identity] for identity in trials["identity"] if identity in runs],
        "seeds": [int(seed) for seed in trials["seed"]],
        **_provenance(plan, name),
        "score": {"validation": _interval(trials["score_val"]), "test": _interval(trials["score_test"])},
        "metrics": {
            split: {
                task: {"metric": plan.metrics[task], **_interval(trials[f"{column}/{task}"])} for task in plan.tasks
            }
            for split, column in (("validation", "val"), ("test", "test"))
        },
    }


def provisional_content(plan: Plan, row: pd.Series) -> dict[str, Any]:
    """Return the content of a weights file for an arm of the shortlist, chosen on validation before the study's end.

    Args:
        plan: the study.
        row: of `hpo.compare.shortlist.shortlist`.
    """
    arm = Arm.parse(row["arm"])
    return {
        **_weights(plan, row),
        "provisional": True,
        "method": row["kind"],
        "recipe": arm.recipe or None,
        "average": arm.average or None,
        "alpha": arm.parameters.get("alpha"),
        **_provenance(plan, row["arm"]),
        "score": {"validation": {"mean": float(f"{row['score']:.8g}"), "seeds": int(row["seeds"])}},
    }


def _weights(plan: Plan, row: pd.Series) -> dict[str, Any]:
    """Return the fields that `balancers.Static.load` reads, and the arm they come from."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tasks": plan.tasks,
        "weights": short_weights(plan.tasks, row[[f"w/{task}" for task in plan.tasks]]),
        "study": plan.study.name,
        "arm": row["arm"],
    }


def _provenance(plan: Plan, arm: str) -> dict[str, Any]:
    label = Arm.parse(arm).arguments
    arguments, found = plan.arguments(label), plan.sets[label].data_hash
    return {
        "problem": {"name": plan.study.problem.name, "arguments": arguments, "data_hash": found},
        "packages": {package: version(package) for package in PACKAGES},
    }


def write_weights(path: Path, content: Mapping[str, Any]) -> None:
    """Write a weights file under a temporary name and rename it."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _gradnorm(row: pd.Series, comparison: Comparison) -> dict[str, Any]:
    """Return recipe, average and alpha if the weights come from a GradNorm run."""
    if row["kind"] != "gradnorm_static":
        return {"recipe": None, "average": None, "alpha": None}
    arm = Arm.parse(row["arm"])
    found = comparison.ranks.loc[comparison.ranks["recipe"] == arm.recipe, "alpha"]
    alpha = arm.parameters.get("alpha", float(found.iloc[0]) if len(found) else None)
    return {"recipe": arm.recipe, "average": arm.average, "alpha": alpha}


def _limits(comparison: Comparison, arm: str) -> dict[str, Any]:
    """Return for each limited task by how many percent an arm is behind; nothing without limits."""
    own = comparison.limits[comparison.limits["arm"] == arm]
    found = {
        row["task"]: {
            "limit": row["limit"],
            "behind": _rounded(row["change"]),
            "bound": _rounded(row["bound"]),
            "kept": bool(row["kept"]),
        }
        for _, row in own.iterrows()
    }
    return {"limits": found} if found else {}


def _interval(values: pd.Series) -> dict[str, float | None]:
    """Return the mean over seeds with its 95% interval; ``null`` where there is none."""
    found = interval(values.dropna())
    numbers = {"mean": found.mean, "low": found.low, "high": found.high}
    return {name: _rounded(number) for name, number in numbers.items()}


def _rounded(number: float) -> float | None:
    return float(f"{number:.8g}") if np.isfinite(number) else None
