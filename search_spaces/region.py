"""The region of a static search around weights that need no search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search_spaces.checks import Array, fail
from search_spaces.log_ratio import clr, clr_inverse

BEYOND = 10.0  # the region reaches so many times further than the weights that it is made from
LEAST = 100.0  # ratio of two weights, relative to the center


def region(weightings: Sequence[Sequence[float]]) -> tuple[Array, float]:
    """Return the center and the ratio of a design that covers some weightings and a factor of 10 beyond.

    The center c is their mean in log-ratios. With ``R(w) = max_ij (w_i / c_i) / (w_j / c_j)``, the ratio is
    ``10 max_w R(w)``, at least 100. Around the two kinds of first-step weights, such a region holds the best of 48
    points that were spread far wider, in each of the seven problems on the results page where these points were not
    all worse than first-step weights.

    Args:
        weightings: at least one, T numbers > 0 each.

    Returns:
        c, shape (T,) with sum T, and the ratio.

    Raises:
        ValueError: there is no weighting; a weight that is not finite or not > 0.

    >>> center, ratio = region([[1.0, 4.0], [1.0, 1.0]])
    >>> center.round(3).tolist(), ratio
    ([0.667, 1.333], 100.0)
    """
    if not len(weightings):
        fail("weightings", "at least one", weightings)
    z = clr(np.asarray(weightings, dtype=np.float64))
    middle = z.mean(axis=0)
    reach = (z - middle).max(axis=1) - (z - middle).min(axis=1)
    return clr_inverse(middle), max(LEAST, BEYOND * float(np.exp(reach.max())))
