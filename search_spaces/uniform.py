"""Random weightings as the GradNorm paper draws them."""

from __future__ import annotations

import numpy as np

from search_spaces.checks import Array, check_sizes
from search_spaces.log_ratio import close


def uniform(tasks: int, points: int, seed: int = 0) -> Array:
    """Draw ``w_i = T x_i / sum_j x_j`` with x_i independent and uniform on (0, 1].

    The 100 random static networks of Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm: Gradient Normalization for
    Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, https://arxiv.org/abs/1711.02257, Figure 4.
    Kept for comparison with it: the points crowd around equal weights, and a weight 100 times smaller than
    another is rare, too narrow a search where losses differ by orders of magnitude. More points of the same seed
    begin with the same points.

    Args:
        tasks: T.
        points: their number.
        seed: of the random numbers.

    Returns:
        Weights, shape (points, T), > 0, each row with sum T.

    Raises:
        ValueError: tasks or points < 1; more than one point for one task.

    >>> uniform(tasks=3, points=100).shape
    (100, 3)
    """
    check_sizes(tasks, points, seed)
    return close(1.0 - np.random.default_rng(seed).random((points, tasks)))
