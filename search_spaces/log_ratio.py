r"""Weights as log-ratios: the coordinates in which loss weights are an ordinary Euclidean space.

Loss weights w matter by their ratios alone (their common scale belongs to the network's learning rate), and a
factor of 2 up is as far as a factor of 2 down. The geometry of such data is Aitchison's: with
``clr(w)_i = ln w_i - mean_j ln w_j``, the distance between two weightings is

    d(v, w) = || clr(v) - clr(w) ||_2 = sqrt(1 / (2 T) sum_ij (ln(v_i / v_j) - ln(w_i / w_j))**2)

Sources: Aitchison, *The Statistical Analysis of Compositional Data* (1986), for clr and the distance; Egozcue,
Pawlowsky-Glahn, Mateu-Figueras, Barcelo-Vidal, *Isometric Logratio Transformations for Compositional Data
Analysis*, Mathematical Geology 35 (2003), https://doi.org/10.1023/A:1023818214614, for ilr.

Deviation: compositional data usually sum to 1; ours sum to the number of tasks T, as in the GradNorm paper.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import helmert

from search_spaces.checks import Array, check_spread, checked_array, checked_weights, fail


def close(w: ArrayLike) -> Array:
    """Scale weights so that they sum to T: ``close(w)_i = T w_i / sum_j w_j`` (the closure, Aitchison 1986).

    Args:
        w: T weights along the last axis, shape (..., T); finite, > 0, no two further apart than a factor of 1e300.

    Returns:
        The same ratios with sum T, shape (..., T).

    Raises:
        ValueError: a weight that is not finite or not > 0; no weights at all; ratios beyond float64.

    >>> close([3.0, 1.0])
    array([1.5, 0.5])
    """
    weights = checked_weights("w", w)
    scaled = weights / weights.max(axis=-1, keepdims=True)
    return np.asarray(scaled * (weights.shape[-1] / scaled.sum(axis=-1, keepdims=True)))


def clr(w: ArrayLike) -> Array:
    """Compute centred log-ratios ``clr(w)_i = ln w_i - (1 / T) sum_j ln w_j`` (Aitchison 1986).

    The scale of w drops out; permuting w permutes clr(w); equal weights are the origin.

    Args:
        w: weights, shape (..., T), as for `close`.

    Returns:
        Shape (..., T), sum 0.

    Raises:
        ValueError: as `close`.

    >>> clr([4.0, 1.0]).round(3)
    array([ 0.693, -0.693])
    """
    return centred(np.log(checked_weights("w", w)))


def centred(logarithms: ArrayLike) -> Array:
    """Subtract the mean along the last axis from logarithms: `clr` of known logarithms, without its checks.

    Args:
        logarithms: shape (..., T); a row with an entry that is not finite becomes NaN or infinite.

    Returns:
        Shape (..., T).

    >>> centred([3.0, 1.0])
    array([ 1., -1.])
    """
    z = np.asarray(logarithms, dtype=np.float64)
    return np.asarray(z - z.mean(axis=-1, keepdims=True))


def clr_inverse(z: ArrayLike) -> Array:
    """Return the weights with given log-ratios: ``w_i = T exp(z_i) / sum_j exp(z_j)``, the inverse of `clr`.

    Args:
        z: log-ratios, shape (..., T); only their differences matter.

    Returns:
        Weights > 0 with sum T, shape (..., T).

    Raises:
        ValueError: an entry that is not finite; no entries; weights further apart than a factor of 1e300.

    >>> clr_inverse([0.5, -0.5]).round(3)
    array([1.462, 0.538])
    """
    logarithms = checked_array("z", z)
    if logarithms.shape[-1] == 0:
        fail("z", "at least one log-ratio", logarithms.tolist())
    return _exponential(logarithms, logarithms)


def ilr(w: ArrayLike) -> Array:
    """Compute isometric log-ratios ``ilr(w) = H clr(w)`` (Egozcue et al. 2003): T - 1 free coordinates.

    H, shape (T - 1, T), is the Helmert matrix: orthonormal rows, each orthogonal to (1, ..., 1). Hence Euclidean
    distances between ilr coordinates are Aitchison distances, and every vector of T - 1 numbers is a weighting.

    Args:
        w: weights, shape (..., T), as for `close`.

    Returns:
        Shape (..., T - 1); no coordinate at all for one task.

    Raises:
        ValueError: as `close`.

    >>> ilr([4.0, 1.0]).round(3)
    array([0.98])
    """
    z = clr(w)
    return np.asarray(z @ helmert(z.shape[-1]).T)


def ilr_inverse(z: ArrayLike) -> Array:
    """Return the weights with given isometric log-ratios: ``clr_inverse(z H)``, the inverse of `ilr`.

    Args:
        z: coordinates, shape (..., T - 1).

    Returns:
        Weights > 0 with sum T, shape (..., T).

    Raises:
        ValueError: as `clr_inverse`.

    >>> ilr_inverse([0.0, 0.0])
    array([1., 1., 1.])
    """
    coordinates = checked_array("z", z)
    return _exponential(coordinates, coordinates @ helmert(coordinates.shape[-1] + 1))


def _exponential(z: Array, logarithms: Array) -> Array:
    check_spread("z", z, logarithms)
    return close(np.exp(logarithms - logarithms.max(axis=-1, keepdims=True)))
