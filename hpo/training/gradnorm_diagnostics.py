"""Diagnose a GradNorm trial from its trajectory. Depends only on numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOVED = 0.01  # a weight that changed by less than this share counts as constant
MET = 0.05  # a gradient norm within this share of its target counts as on target
LONG_ENOUGH = 20  # minimum number of measured steps
UNLIKE = 4.0  # largest ratio of a first loss to the losses right after it
NEXT = 10  # number of steps for "right after"


def trajectory_alarms(trajectory: Mapping[str, Any], tasks: Sequence[str], alpha: float) -> Iterator[str]:
    """Return alarms on a finished GradNorm run, one line each.

    Args:
        trajectory: ``w``, ``G``, ``r``, ``L`` of shape (steps, T), NaN where not measured.
        tasks: T names.
        alpha: of GradNorm, whose target for G_i is ``mean_j G_j r_i**alpha`` (Chen et al., ICML 2018, equation 1).
    """
    if len(tasks) < 2 or not trajectory:
        return
    w, G, r, L = (np.asarray(trajectory[name], dtype=np.float64) for name in ("w", "G", "r", "L"))
    yield from _first_losses(L, tasks)
    measured = np.flatnonzero(np.isfinite(G).all(axis=1) & np.isfinite(r).all(axis=1))
    late = measured[len(measured) // 2 :]  # a run that starts on its targets may still leave them
    if len(measured) < LONG_ENOUGH:
        return
    powers = r[late] ** alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        # attainable targets: mean_i r_i**alpha is not 1, but the mean of G_i / mean_j G_j is
        off = (G[late] / G[late].mean(axis=1, keepdims=True)) / (powers / powers.mean(axis=1, keepdims=True)) - 1
    sides = {"below": (off < -MET).all(axis=0), "above": (off > MET).all(axis=0)}
    still = (np.ptp(w, axis=0) <= MOVED * np.abs(w).mean(axis=0)).all()
    if still and (np.abs(off.mean(axis=0)) > MET).any():  # otherwise they were already on target
        yield f"the weights never moved by more than {MOVED:.0%}: a larger learning_rate of GradNorm, or more steps"
    for side, missed in sides.items():
        if missed.any():
            names = ", ".join(np.array(tasks)[missed])
            yield (
                f"GradNorm's target was never met in the second half of the run: the gradient norm of {names} stayed "
                f"{side} it"
            )


def _first_losses(L: np.ndarray, tasks: Sequence[str]) -> Iterator[str]:
    """Report tasks whose first loss L_i(0), on which the training rates r_i depend, is unlike the following losses.

    The comparison is not with the epoch's mean, since the loss of a fast learner falls far within one epoch.
    """
    if len(L) <= NEXT:
        return
    for task, first, others in zip(tasks, L[0], np.median(L[1 : 1 + NEXT], axis=0), strict=True):
        if first > 0 and others > 0 and not 1 / UNLIKE < first / others < UNLIKE:
            yield (
                f"L(0) of {task} is {first / others:.2g} times the losses of the next {NEXT} steps: "
                "alpha acts on a first batch that does not stand for the data"
            )
