"""Description of a molecule by 115 numbers, invariant to rotation, translation and the order of its atoms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ATOMS = 29  # in the largest molecule
ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
BOHR = 0.529177210903  # angstrom (CODATA 2018)

# Pairs of elements, and where the histogram of their distances (angstrom) is cut: n edges make n + 1 bins, the first
# from 0, the last without end. Cuts below 1.8 (1.4 with hydrogen) tell kinds of bonds apart, by order and ring; the
# others lie between the peaks of atoms two and three bonds apart, and further out. Fluorine is rare: one histogram.
HISTOGRAMS: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...] = (
    (("CC",), (1.26, 1.36, 1.42, 1.48, 1.52, 1.56, 1.8, 2.3, 2.45, 2.7, 3.4, 4.5)),
    (("CN",), (1.2, 1.28, 1.34, 1.4, 1.46, 1.8, 2.3, 2.5, 3.0, 4.0)),
    (("CO",), (1.26, 1.34, 1.38, 1.42, 1.8, 2.35, 2.5, 3.0, 4.0)),
    (("NN",), (1.26, 1.8, 2.4, 3.0, 4.0)),
    (("NO",), (1.37, 1.8, 2.6, 4.0)),
    (("OO",), (2.5, 3.2, 4.5)),
    (("HC",), (1.075, 1.09, 1.1, 1.4, 2.15, 2.3, 2.7, 3.2, 4.5)),
    (("HH",), (1.8, 2.3, 2.6, 3.2, 4.0, 5.5)),
    (("HN",), (1.4, 2.2, 2.7, 3.2, 4.5)),
    (("HO",), (1.4, 2.1, 2.7, 3.2, 4.5)),
    (("HF", "CF", "NF", "OF", "FF"), (1.8, 3.0)),
)
BINS = sum(len(edges) + 1 for _, edges in HISTOGRAMS)
INPUTS = ATOMS + len(ATOMIC_NUMBERS) + BINS


def parse_molecules(elements: Sequence[str], positions: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Read the source's text of M molecules.

    Args:
        elements: such as ``"['O','H','H']"``.
        positions: such as ``"[[0.,0.,0.],[1.,0.,0.],[0.,1.,1E-6]]"``, angstrom.

    Returns:
        Atomic numbers (M, 29) and positions (M, 29, 3), angstrom; 0 where a molecule has fewer atoms.

    >>> numbers, _ = parse_molecules(["['O','H','H']"], ["[[0.,0.,0.],[1.,0.,0.],[0.,1.,1E-6]]"])
    >>> numbers[0, :4]
    array([8, 1, 1, 0])
    """
    symbols = [re.sub("[^HCNOF]", "", text) for text in elements]
    present = np.arange(ATOMS) < np.array([len(text) for text in symbols])[:, None]
    numbers = np.zeros(present.shape, dtype=np.int64)
    numbers[present] = [ATOMIC_NUMBERS[symbol] for text in symbols for symbol in text]
    coordinates = np.zeros((*present.shape, 3))
    coordinates[present] = np.fromstring(re.sub(r"[\[\]]", "", ",".join(positions)), sep=",").reshape(-1, 3)
    return numbers, coordinates


def describe(numbers: NDArray[np.int64], positions: NDArray[Any]) -> NDArray[np.float32]:
    """The 115 numbers of M molecules: 29 eigenvalues, 5 counts of elements, 81 counts of distances.

    Args:
        numbers: atomic numbers (M, 29), 0 where there is no atom.
        positions: (M, 29, 3), angstrom.
    """
    distances = np.linalg.norm(positions[:, :, None] - positions[:, None], axis=3)
    counts = np.stack([(numbers == number).sum(axis=1) for number in ATOMIC_NUMBERS.values()], axis=1)
    parts = (coulomb_eigenvalues(numbers, distances), counts, distance_histograms(numbers, distances))
    return np.concatenate(parts, axis=1, dtype=np.float32)


def coulomb_eigenvalues(numbers: NDArray[np.int64], distances: NDArray[Any]) -> NDArray[Any]:
    r"""The eigenvalues of each molecule's Coulomb matrix, largest first, then a 0 for each atom that it lacks.

    ``C_ii = 0.5 Z_i**2.4`` and ``C_ij = Z_i Z_j / R_ij``, with atomic numbers Z and distances R in bohr: about the
    energy of a lone atom, and the repulsion of two nuclei, both in hartree.

    Source: Rupp, Tkatchenko, Müller, von Lilienfeld, "Fast and accurate modeling of molecular atomization energies
    with machine learning", Physical Review Letters 108, 2012, https://doi.org/10.1103/PhysRevLett.108.058301.
    Deviation: the paper sorts by absolute value; in QM9 all eigenvalues are above 0, so that both orders are one.

    Args:
        numbers: atomic numbers (M, N), 0 where there is no atom.
        distances: (M, N, N), angstrom.

    Returns:
        Shape (M, N), hartree.
    """
    z = numbers.astype(np.float64)
    apart = np.where(distances > 0, distances, np.inf) / BOHR  # the diagonal, and pairs of two missing atoms
    matrices = z[:, :, None] * z[:, None] / apart
    diagonal = np.arange(z.shape[1])
    matrices[:, diagonal, diagonal] = 0.5 * z**2.4
    return np.linalg.eigvalsh(matrices)[:, ::-1]


def distance_histograms(numbers: NDArray[np.int64], distances: NDArray[Any]) -> NDArray[np.int64]:
    """Count the pairs of atoms of each molecule that fall into each bin of `HISTOGRAMS`.

    Args:
        numbers: atomic numbers (M, N), 0 where there is no atom.
        distances: (M, N, N), angstrom.

    Returns:
        Shape (M, 81); a row's sum is the number of the molecule's pairs of atoms.
    """
    first, second = np.triu_indices(numbers.shape[1], 1)
    kinds = _pair_kinds()[numbers[:, first], numbers[:, second]]
    pairs = distances[:, first, second]
    histograms = []
    for kind, (_, edges) in enumerate(HISTOGRAMS):
        molecule, pair = np.nonzero(kinds == kind)
        bins = len(edges) + 1
        flat = molecule * bins + np.searchsorted(edges, pairs[molecule, pair], side="right")
        histograms.append(np.bincount(flat, minlength=len(numbers) * bins).reshape(-1, bins))
    return np.concatenate(histograms, axis=1)


def _pair_kinds() -> NDArray[np.int64]:
    """Return the index in `HISTOGRAMS` of two atoms, by their atomic numbers; -1 if one of them is missing."""
    largest = max(ATOMIC_NUMBERS.values())
    kinds = np.full((largest + 1, largest + 1), -1)
    for kind, (pairs, _) in enumerate(HISTOGRAMS):
        for pair in pairs:
            a, b = (ATOMIC_NUMBERS[element] for element in pair)
            kinds[a, b] = kinds[b, a] = kind
    return kinds
