from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from hpo.core.errors import ProblemError
from hpo.problems.base import Split
from hpo.problems.molecule_descriptions import ATOMS, BOHR, HISTOGRAMS, describe, parse_molecules
from hpo.problems.qm9 import (
    CHUNK,
    COLUMNS,
    MOLECULES,
    QM9,
    SIZES,
    TARGETS,
    VARIABLE,
    _standardise,
    choose_molecules,
    read_molecules,
)

SPLITS: tuple[Split, ...] = ("train", "val", "test")
STUDY = Path(__file__).parents[3] / "studies" / "qm9.yaml"
# Hydrogen cyanide on the x axis, and a tetrahedral methane, in angstrom.
HCN = ("['H','C','N']", "[[-1.064,0.,0.],[0.,0.,-1E-9],[1.156,0.,0.]]")
CORNER = 1.095 / 3**0.5
METHANE = (
    "['C','H','H','H','H']",
    f"[[0.,0.,0.],[{CORNER},{CORNER},{CORNER}],[{CORNER},-{CORNER},-{CORNER}],"
    f"[-{CORNER},{CORNER},-{CORNER}],[-{CORNER},-{CORNER},{CORNER}]]",
)


def test_the_hash_names_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small preset is cut from the full one."""
    before = QM9().data_hash()
    monkeypatch.setitem(SIZES["full"], "train", 100_000)
    assert QM9().data_hash() != before


@pytest.fixture(scope="module")
def table(qm9_files: list[Path]) -> pd.DataFrame:
    """Index and the nine targets of every molecule."""
    return pd.concat(read_molecules(qm9_files, ["Index", *COLUMNS.values()]), ignore_index=True)


@pytest.fixture(scope="module")
def molecules(qm9_files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Atomic numbers and positions of the table's first molecules."""
    first = next(read_molecules(qm9_files, ["Elements", "XYZ_Ang"]))
    return parse_molecules(first["Elements"].tolist(), first["XYZ_Ang"].tolist())


def described(*texts: tuple[str, str]) -> np.ndarray:
    elements, positions = zip(*texts, strict=True)
    return describe(*parse_molecules(elements, positions))


def rows(problem: QM9, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets in stored order, for train too."""
    return problem._rows(split)


def names_of_bins() -> list[tuple[str, int]]:
    """The first pair of each bin's histogram, and the bin's number in it."""
    return [(pairs[0], place) for pairs, edges in HISTOGRAMS for place in range(len(edges) + 1)]


def filled(description: np.ndarray) -> dict[tuple[str, int], float]:
    counts = description[-len(names_of_bins()) :]
    return {name: count for name, count in zip(names_of_bins(), counts.tolist(), strict=True) if count}


def test_every_pair_of_elements_has_one_histogram() -> None:
    listed = [frozenset(pair) for pairs, _ in HISTOGRAMS for pair in pairs]
    every = {frozenset(pair) for pair in combinations("HCNOF", 2)} | {frozenset(element) for element in "HCNOF"}
    assert len(listed) == len(set(listed))
    assert set(listed) == every
    assert all(list(edges) == sorted(set(edges)) for _, edges in HISTOGRAMS)


def test_a_description_has_the_stated_parts() -> None:
    description = described(HCN, METHANE)
    assert description.shape == (2, 29 + 5 + 81)
    assert description.dtype == np.float32
    assert description[:, 29:34].tolist() == [[1, 1, 1, 0, 0], [4, 1, 0, 0, 0]]


def test_distances_are_counted_by_pair_and_length() -> None:
    hcn, methane = described(HCN, METHANE)
    assert filled(hcn) == {("CN", 0): 1, ("HC", 0): 1, ("HN", 2): 1}  # 1.156, 1.064 and 2.22 angstrom
    assert filled(methane) == {("HC", 2): 4, ("HH", 0): 6}  # 1.095 and 1.788 angstrom


def test_eigenvalues_are_those_of_the_coulomb_matrix() -> None:
    """Of hydrogen cyanide, against the matrix written out."""
    ch, cn, hn = 1.064 / BOHR, 1.156 / BOHR, (1.064 + 1.156) / BOHR
    matrix = [[0.5, 6 / ch, 7 / hn], [6 / ch, 0.5 * 6**2.4, 42 / cn], [7 / hn, 42 / cn, 0.5 * 7**2.4]]
    eigenvalues = described(HCN)[0, :ATOMS]
    assert eigenvalues[:3] == pytest.approx(sorted(np.linalg.eigvals(matrix), reverse=True), rel=1e-5)
    assert not eigenvalues[3:].any()


def test_source_text_is_read_to_the_last_digit() -> None:
    numbers, positions = parse_molecules(["['O','H']", "['F']"], ["[[-1.25E-6,0.,3.],[1.,-2.5,0.1]]", "[[7.,8.,9.]]"])
    assert numbers[:, :3].tolist() == [[8, 1, 0], [9, 0, 0]]
    assert positions[0, :3].tolist() == [[-1.25e-6, 0.0, 3.0], [1.0, -2.5, 0.1], [0.0, 0.0, 0.0]]
    assert positions[1, 0].tolist() == [7.0, 8.0, 9.0]
    assert not positions[:, 2:].any()


def test_turning_moving_and_reordering_change_no_description(molecules: tuple[np.ndarray, np.ndarray]) -> None:
    numbers, positions = molecules[0][:200], molecules[1][:200]
    random = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    order = random.permutation(ATOMS)
    moved = (positions @ rotation + [1.0, -2.0, 30.0])[:, order]
    one, other = describe(numbers, positions), describe(numbers[:, order], moved)
    assert np.allclose(one[:, :ATOMS], other[:, :ATOMS], atol=1e-3)
    # A length within a rounding error of a cut may fall on either side of it.
    assert (one[:, ATOMS:] != other[:, ATOMS:]).mean() < 1e-4


def test_every_pair_of_atoms_is_counted_and_no_eigenvalue_is_below_zero(
    molecules: tuple[np.ndarray, np.ndarray],
) -> None:
    description = describe(*molecules)
    atoms = (molecules[0] > 0).sum(axis=1)
    assert np.array_equal(description[:, ATOMS : ATOMS + 5].sum(axis=1), atoms)
    assert np.array_equal(description[:, ATOMS + 5 :].sum(axis=1), atoms * (atoms - 1) / 2)
    assert ((description[:, :ATOMS] > 0).sum(axis=1) == atoms).all()
    assert (np.diff(description[:, :ATOMS], axis=1) <= 0).all()


def test_standardising_uses_the_fitted_rows_and_empties_a_constant_column() -> None:
    inputs = np.array([[1, 5], [3, 5], [100, 5]], dtype=np.float32)
    _standardise(inputs, np.array([0, 1]))
    assert inputs.tolist() == [[-1, 0], [1, 0], [98, 0]]


@pytest.mark.parametrize("preset", ["small", "full"])
def test_splits_are_disjoint_and_of_the_stated_size(preset: str) -> None:
    chosen = choose_molecules(preset)  # type: ignore[arg-type]
    assert {split: len(numbers) for split, numbers in chosen.items()} == SIZES[preset]  # type: ignore[index]
    every = np.concatenate([chosen[split] for split in SPLITS])
    assert len(np.unique(every)) == len(every)
    assert every.min() >= 0
    assert every.max() < MOLECULES


def test_the_small_preset_is_part_of_the_full_one() -> None:
    small, full = choose_molecules("small"), choose_molecules("full")
    assert all(set(small[split].tolist()) <= set(full[split].tolist()) for split in SPLITS)
    assert sum(map(len, full.values())) == MOLECULES


def test_the_files_hold_every_molecule_once_in_the_order_of_its_number(table: pd.DataFrame) -> None:
    assert len(table) == MOLECULES == 133_885 - 3_054
    assert table["Index"].is_monotonic_increasing
    assert table["Index"].is_unique
    assert not table.isna().any(axis=None)


def test_targets_have_the_known_variances(table: pd.DataFrame) -> None:
    variances = table[list(COLUMNS.values())].var(ddof=0).to_numpy()
    assert variances == pytest.approx([2.26, 66.8, 4.83e-4, 2.2e-3, 2.23e-3, 7.87e4, 1.1e-3, 1.59e3, 16.5], rel=0.01)


def test_three_targets_are_the_least_alike(table: pd.DataFrame) -> None:
    correlations = table[[COLUMNS[task] for task in TARGETS[3]]].corr().abs().to_numpy()
    assert correlations[np.triu_indices(3, 1)].max() < 0.35
    losses = table[[COLUMNS[task] for task in TARGETS[5]]].var()
    assert {losses.idxmin(), losses.idxmax()} < {COLUMNS[task] for task in TARGETS[3]}


@pytest.mark.parametrize("targets", [3, 5, 9])
@pytest.mark.parametrize("split", ["val", "test"])
def test_targets_are_raw_but_for_the_mean_of_the_training_molecules(
    table: pd.DataFrame, split: Split, targets: int
) -> None:
    columns = [COLUMNS[task] for task in TARGETS[targets]]
    chosen = choose_molecules("small")
    expected = table[columns].iloc[chosen[split]] - table[columns].iloc[chosen["train"]].mean()
    assert rows(QM9(targets=targets), split)[1].numpy() == pytest.approx(expected.to_numpy(), rel=1e-5, abs=1e-6)


@pytest.mark.usefixtures("qm9_files")
def test_inputs_are_standardised_on_the_training_molecules() -> None:
    inputs, _ = rows(QM9(), "train")
    assert inputs.shape == (SIZES["small"]["train"], 115)
    assert inputs.dtype == torch.float32
    assert inputs.mean(0).abs().max() < 1e-4
    assert (inputs.std(0) - 1).abs().max() < 1e-3
    for split in ("val", "test"):
        assert rows(QM9(), split)[0].isfinite().all()
        assert rows(QM9(), split)[0].std(0).median() == pytest.approx(1, abs=0.1)


def test_inputs_are_the_description_of_their_own_molecule(molecules: tuple[np.ndarray, np.ndarray]) -> None:
    """But for the scale of each column, which a second standardising takes out."""
    chosen = choose_molecules("small")["train"]
    own = np.flatnonzero(chosen < CHUNK)
    raw = describe(*molecules)[chosen[own]].astype(np.float64)
    cached = rows(QM9(), "train")[0].numpy()[own].astype(np.float64)
    varied = raw.std(axis=0) > 0
    one, other = ((x - x.mean(0)) / x.std(0) for x in (raw[:, varied], cached[:, varied]))
    assert varied.sum() > 80
    assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.usefixtures("qm9_files")
def test_losses_start_raw() -> None:
    problem = QM9(targets=9)
    losses = problem.losses(problem.build_model(0), tuple(tensor[:1000] for tensor in rows(problem, "train")))
    large = ("dipole", "polarizability", "extent", "energy", "heat_capacity")
    assert [losses[task].item() for task in large] == pytest.approx([2.3, 67, 7.9e4, 1.6e3, 17], rel=0.2)
    assert max(losses["homo"].item(), losses["zero_point_energy"].item()) < 0.3


@pytest.mark.usefixtures("qm9_files")
def test_the_metric_of_a_network_without_weights_is_the_mean_deviation() -> None:
    problem = QM9()
    model = problem.build_model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        measured = problem.evaluate(model, "test")
    assert list(measured.values()) == pytest.approx(rows(problem, "test")[1].abs().mean(0).tolist(), rel=1e-5)


@pytest.mark.parametrize("targets", [4, 0, True, 5.0, "5", [5], None])
def test_other_numbers_of_targets_are_refused(targets: Any) -> None:
    with pytest.raises(ProblemError) as caught:
        QM9(targets=targets)
    assert str(caught.value) == f"targets: expected 3, 5, 9, got {targets!r}"


def test_a_batch_must_fit_the_preset() -> None:
    with pytest.raises(
        ProblemError, match="batch_size: expected at most the 16000 rows of the training split, got 16001"
    ):
        QM9(batch_size=16_001)
    assert QM9("full", batch_size=16_001).batch_size == 16_001


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_file_is_named(
    qm9_files: list[Path], damaged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, file in enumerate(qm9_files):
        if number == damaged:
            (tmp_path / file.name).write_text("damaged")
        else:
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ProblemError, match=f"{qm9_files[damaged].name}: expected the sha256 .*, got "):
        QM9().prepare()
    assert not (tmp_path / "cache").exists()


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    words = r"qm9_part1\.csv; correct GRADSWEEP_QM9, or .*gradsweep\[molecules\].*qm9pack==1\.0\.3"
    with pytest.raises(FileNotFoundError, match=words):
        QM9().prepare()


@pytest.mark.usefixtures("qm9_files")
def test_the_cache_is_enough_without_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    QM9().prepare()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    QM9(targets=9).prepare()


@pytest.mark.usefixtures("qm9_files")
def test_the_ready_study_searches_where_the_balanced_weights_are() -> None:
    study = yaml.safe_load(STUDY.read_text())
    balanced = 1 / rows(QM9(targets=study["problem"]["targets"]), "train")[1].var(0)
    assert float(balanced.max() / balanced.min()) < study["static"]["ratio"]


@pytest.mark.slow
@pytest.mark.usefixtures("qm9_files")
def test_weights_that_balance_the_losses_beat_equal_ones() -> None:
    problem = QM9(epochs=8)
    constant = rows(problem, "test")[1].abs().mean(0).tolist()
    equal = np.divide(_train(problem, torch.ones(5)), constant)
    balanced = np.divide(_train(problem, 1 / rows(problem, "train")[1].var(0)), constant)
    dipole, polarizability, gap, extent, heat_capacity = balanced
    assert max(polarizability, heat_capacity) < 0.25
    assert max(dipole, extent) < 0.65
    assert gap < 0.8
    assert equal[3] < 0.2  # the largest loss
    assert equal[2] > 2  # the smallest: worse than a constant
    assert equal[0] > dipole + 0.1


def _train(problem: QM9, weights: torch.Tensor) -> list[float]:
    weights = weights / weights.mean()
    model = problem.build_model(0)
    optimizer = problem.build_optimizer(model)
    loader = problem.loader("train", 0)
    for _ in range(problem.epochs):
        for batch in loader:
            losses = torch.stack(list(problem.losses(model, batch).values()))
            optimizer.zero_grad()
            (weights * losses).sum().backward()
            optimizer.step()
    with torch.no_grad():
        return list(problem.evaluate(model.eval(), "test").values())
