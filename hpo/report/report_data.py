"""Input of the report, and functions on it that several of its parts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from hpo import compare
from hpo.compare import Comparison, Vector, best_trial, weights_of
from search_spaces.log_ratio import centred

MOST_DRAWN = 1000  # static points in a figure


@dataclass(frozen=True)
class ReportData:
    """Input of a report.

    Attributes:
        study: name of the study.
        comparison: result of `hpo.compare.compare`.
        metrics: for each task the name of its metric, "AUC".
        trajectories: for each recipe the trajectory of the search trial with the best alpha, columns ``step``,
            ``w/<task>``, ``G/<task>``, ``r/<task>``, ``L/<task>``; may be empty.
        provenance: origin of the numbers: "study file" (its YAML text), "data hash", "problem", "torch", ...
        run_links: for each trial's identity the URL, or else the name, of its MLflow run; may be empty.
        unfinished: trials that diverged or failed, rows of the table given to `compare`, whose result has no such
            confirm trials; may be empty.
    """

    study: str
    comparison: Comparison
    metrics: Mapping[str, str]
    trajectories: Mapping[str, pd.DataFrame]
    provenance: Mapping[str, str]
    run_links: Mapping[str, str]
    unfinished: pd.DataFrame = field(default_factory=pd.DataFrame)


class Point(NamedTuple):
    """An arm and its weights, shape (T,)."""

    arm: str
    weights: Vector


def static_points(comparison: Comparison) -> pd.DataFrame:
    """Return the trials of the static search that have a score, best first."""
    return compare.static_points(comparison.search)


def drawn_points(comparison: Comparison) -> pd.DataFrame:
    """Return the static points that figures draw, best first: all, or the best and some of the others.

    A browser takes seconds to draw thousands of markers, and nobody sees them one by one.
    """
    points = static_points(comparison)
    best = MOST_DRAWN // 2
    if len(points) <= MOST_DRAWN:
        return points
    others = np.linspace(best, len(points) - 1, MOST_DRAWN - best).round().astype(int)
    return points.iloc[[*range(best), *others]]


def drawn_note(comparison: Comparison) -> str:
    """Return the sentence of a caption on points that are not drawn."""
    count = len(static_points(comparison))
    if count <= MOST_DRAWN:
        return ""
    return f" Of {count:,} points, the best {MOST_DRAWN // 2} and as many of the others, evenly by rank, are drawn."


def best_runs(comparison: Comparison) -> dict[str, pd.Series]:
    """Return for each recipe the search trial of its best alpha."""
    return dict(sorted(compare.best_runs(comparison.search).items()))


def best_static(comparison: Comparison) -> Point | None:
    """Return the best static arm of the confirm phase, or of the search while no arm is confirmed."""
    arm, tasks = comparison.verdict.static, comparison.tasks
    if arm:
        return Point(arm, arm_weights(comparison, arm))
    row = best_trial(static_points(comparison))
    return None if row is None else Point(row["arm"], weights_of(row, tasks, "geometric"))


def arm_weights(comparison: Comparison, arm: str) -> Vector:
    """Return the weights of a confirmed arm, shape (T,)."""
    row = comparison.arms.loc[comparison.arms["arm"] == arm].iloc[0]
    return row[[f"w/{task}" for task in comparison.tasks]].to_numpy(dtype=np.float64)


def recommended_weights(comparison: Comparison) -> dict[str, float]:
    """Return for each task the weight to train with, six digits; empty if no arm is recommended."""
    if not comparison.recommended:
        return {}
    w = arm_weights(comparison, comparison.recommended)
    return {task: float(f"{value:.6g}") for task, value in zip(comparison.tasks, w, strict=True)}


def centred_log_ratios(w: ArrayLike) -> Vector:
    """Compute ``ln w_i - mean_j ln w_j`` along the last axis (Aitchison, 1986); NaN if a weight is not positive."""
    x = np.asarray(w, dtype=np.float64)
    return centred(np.log(np.where(x > 0, x, np.nan)))
