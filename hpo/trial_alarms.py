"""What a GradNorm trial's trajectory says against it. Needs numpy alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOVED = 0.01  # a weight that changed by less than this share has not moved
MET = 0.05  # a gradient norm within this share of its target has met it
LONG_ENOUGH = 20  # measured steps below which nothing is said
UNLIKE = 10.0  # times that a first loss may differ from the first epoch's mean


def trajectory_alarms(trajectory: Mapping[str, Any], tasks: Sequence[str], alpha: float) -> Iterator[str]:
    """Alarms on w, G and r of a finished GradNorm run, one line each.

    Args:
        trajectory: ``w``, ``G``, ``r`` of shape (steps, T), NaN where not measured.
        tasks: T names.
        alpha: of GradNorm, whose target for G_i is ``mean_j G_j r_i**alpha`` (Chen et al., ICML 2018, equation 1).
    """
    if len(tasks) < 2 or not trajectory:
        return
    w, G, r = (np.asarray(trajectory[name], dtype=np.float64) for name in ("w", "G", "r"))
    if len(w) >= LONG_ENOUGH and (np.ptp(w, axis=0) <= MOVED * np.abs(w).mean(axis=0)).all():
        yield f"the weights never moved by more than {MOVED:.0%}: a larger learning_rate of GradNorm, or more steps"
    measured = np.isfinite(G).all(axis=1) & np.isfinite(r).all(axis=1)
    if measured.sum() < LONG_ENOUGH:
        return
    target = G[measured].mean(axis=1, keepdims=True) * r[measured] ** alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        off = G[measured] / target - 1
    for side, missed in (("below", (off < -MET).all(axis=0)), ("above", (off > MET).all(axis=0))):
        if missed.any() and not missed.all():  # targets of alpha > 1 sum to more than the norms: all lie below
            names = ", ".join(np.array(tasks)[missed])
            yield f"GradNorm's target was never met: in every step the gradient norm of {names} stayed {side} it"


def first_loss_alarms(first: Mapping[str, float], epoch: Mapping[str, float], steps: int) -> Iterator[str]:
    """Tasks whose L_i(0), the first batch's, is far from the mean of the first epoch's rest: r_i rests on it.

    Args:
        first: L_i(0) by task.
        epoch: mean of L_i over the first epoch by task.
        steps: of the first epoch.
    """
    for task, loss in first.items() if steps > 1 else ():
        mean = (epoch.get(task, float("nan")) * steps - loss) / (steps - 1)
        if loss > 0 and mean > 0 and not 1 / UNLIKE < loss / mean < UNLIKE:
            yield (
                f"L(0) of {task} is {loss / mean:.2g} times the mean loss of the rest of the first epoch: "
                "alpha acts on a first batch that does not stand for the data"
            )
