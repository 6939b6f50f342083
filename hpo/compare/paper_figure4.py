"""The paper's Figure 4 as a number: rank correlation of the static points' score and distance to E_t[w]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpo.compare.rank_correlation import spearman
from hpo.compare.trial_table import Vector, best_runs, static_points, weight_columns, weights_of
from hpo.compare.weight_distances import distances_to
from search_spaces.log_ratio import clr, clr_inverse

REFERENCES = 200
KINDS = ("aitchison", "l2")


def figure4(search: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Compute Spearman's rho of the static points' scores and their distance to E_t[w], and its percentile.

    The GradNorm paper (section 5.4, Figure 4) shows the plot for one E_t[w] as evidence. But a bowl-shaped score
    correlates with the distance to any point near its minimum. Therefore rho is also computed for 200 reference
    points drawn from the searched region (log-ratios of T static points mixed with Dirichlet(1) shares), and
    ``percentile`` is the percentage of them with a smaller rho: near 50, E_t[w] is no better than a random point.

    Args:
        search: scored trials of the search seed.
        tasks: their names.

    Returns:
        For each recipe (arithmetic E_t[w] of its best run, the paper's) and kind of distance: ``recipe, distance,
        rho, percentile, null_low, null_high`` (the central 95% of the references' rho), ``points``.
    """
    points = static_points(search)
    w = weight_columns(points, tasks, "geometric")
    usable = (w > 0).all(axis=1)
    w, score = w[usable], points["score"].to_numpy(dtype=float)[usable]
    rows = []
    if len(score) >= 3:
        runs = best_runs(search)
        targets = [*reference_points(w), *(weights_of(run, tasks, "arithmetic") for run in runs.values())]
        null, own = np.split(_rhos(targets, w, score), [REFERENCES])
        for recipe, found in zip(runs, own, strict=True):
            for place, kind in enumerate(KINDS):
                others = null[:, place]
                low, high = np.nanquantile(others, [0.025, 0.975]) if np.isfinite(others).any() else (np.nan, np.nan)
                row = {"recipe": recipe, "distance": kind, "rho": found[place], "points": len(score)}
                row |= {
                    "percentile": 100 * float((others < found[place]).mean()) if np.isfinite(found[place]) else np.nan
                }
                rows.append(row | {"null_low": low, "null_high": high})
    columns = ["recipe", "distance", "rho", "percentile", "null_low", "null_high", "points"]
    return pd.DataFrame(rows, columns=columns)


def reference_points(w: Vector, count: int = REFERENCES) -> Vector:
    """Draw points from the region spanned by the rows of ``w`` (n, T), the same in every call; shape (count, T)."""
    random = np.random.default_rng(0)
    n, T = w.shape
    corners = random.integers(n, size=(count, T))
    shares = random.dirichlet(np.ones(T), size=count)
    return np.asarray(clr_inverse(np.einsum("kc,kct->kt", shares, clr(w)[corners])))


def _rhos(targets: Sequence[Vector], w: Vector, score: Vector) -> Vector:
    """Compute Spearman's rho of score and distance for each target and kind of distance, shape (targets, 2)."""
    far = np.concatenate([distances_to(target, w)[: len(KINDS)] for target in targets])
    return spearman(score, np.where(np.isfinite(far), far, np.nan)).reshape(-1, len(KINDS))
