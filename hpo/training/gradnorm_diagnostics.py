"""What a GradNorm trial's trajectory says against it. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOVED = 0.01  # a weight that changed by less than this share has not moved
MET = 0.05  # a gradient norm within this share of its target has met it
LONG_ENOUGH = 20  # measured steps below which nothing is said
UNLIKE = 4.0  # times that a first loss may differ from the losses right after it
NEXT = 10  # steps that "right after" means


def trajectory_alarms(trajectory: Mapping[str, Any], tasks: Sequence[str], alpha: float) -> Iterator[str]:
    """Alarms on a finished GradNorm run, one line each.

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
    late = measured[len(measured) // 2 :]  # a run that begins on its targets may still leave them
    if len(measured) < LONG_ENOUGH:
        return
    powers = r[late] ** alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        # targets as far as they can be met: mean_i r_i**alpha is not 1, but the mean of G_i / mean_j G_j is
        off = (G[late] / G[late].mean(axis=1, keepdims=True)) / (powers / powers.mean(axis=1, keepdims=True)) - 1
    sides = {"below": (off < -MET).all(axis=0), "above": (off > MET).all(axis=0)}
    still = (np.ptp(w, axis=0) <= MOVED * np.abs(w).mean(axis=0)).all()
    if still and (np.abs(off.mean(axis=0)) > MET).any():  # else they stood where they should
        yield f"the weights never moved by more than {MOVED:.0%}: a larger learning_rate of GradNorm, or more steps"
    for side, missed in sides.items():
        if missed.any():
            names = ", ".join(np.array(tasks)[missed])
            yield (
                f"GradNorm's target was never met in the second half of the run: the gradient norm of {names} stayed "
                f"{side} it"
            )


def _first_losses(L: np.ndarray, tasks: Sequence[str]) -> Iterator[str]:
    """Tasks whose L_i(0), the first batch's, is unlike those of the next batches: the training rates r_i rest on it.

    Not against the epoch's mean, as a network that learns fast leaves its first loss far behind within an epoch.
    """
    if len(L) <= NEXT:
        return
    for task, first, others in zip(tasks, L[0], np.median(L[1 : 1 + NEXT], axis=0), strict=True):
        if first > 0 and others > 0 and not 1 / UNLIKE < first / others < UNLIKE:
            yield (
                f"L(0) of {task} is {first / others:.2g} times the losses of the next {NEXT} steps: "
                "alpha acts on a first batch that does not stand for the data"
            )
