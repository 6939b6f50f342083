"""The problems under test, and their data where installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.problems.census import INSTALL, PACKAGE, TEST_FILE, TRAIN_FILE, VARIABLE
from hpo.problems.data import locate


@pytest.fixture(scope="session")
def census_files() -> tuple[Path, Path]:
    """The two source files, for tests that need the real data."""
    try:
        train, test = locate(PACKAGE, [TRAIN_FILE, TEST_FILE], VARIABLE, INSTALL)
    except FileNotFoundError as error:
        pytest.skip(f"needs the census data: {error}")
    return train, test


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One new cache folder for the session, so that no test reads or writes the user's."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("GRADSWEEP_CACHE")
    os.environ["GRADSWEEP_CACHE"] = str(folder)
    yield folder
    del os.environ["GRADSWEEP_CACHE"]
    if before is not None:
        os.environ["GRADSWEEP_CACHE"] = before
