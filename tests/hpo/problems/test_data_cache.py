from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo.core.errors import ProblemError
from hpo.problems.data_cache import (
    ShuffledBatches,
    cache_folder,
    cached_arrays,
    locate,
    locate_in,
    ordered_batches,
    verify,
)

VARIABLE = "GRADSWEEP_TEST_FOLDER"
INSTALL = "pip install no-such-package==1.0"


def test_a_missing_package_gives_the_command_that_installs_it() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such_package.*pip install no-such-package==1.0.*a\.csv, b\.csv"):
        locate("no_such_package", ["data/a.csv", "data/b.csv"], VARIABLE, INSTALL)


def test_a_package_without_the_file_names_the_path_and_the_command() -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*numpy/data/a\.csv.*pip install no-such-package"):
        locate("numpy", ["data/a.csv"], VARIABLE, INSTALL)


def test_a_file_is_found_in_a_package_that_is_not_imported(tmp_path: Path) -> None:
    package = tmp_path / "package_that_must_not_run"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    (package / "a.csv").write_text("1")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from hpo.problems.data_cache import locate; "
        f"print(locate('package_that_must_not_run', ['a.csv'], {VARIABLE!r}, 'pip')[0])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == package / "a.csv"


def test_a_file_is_found_in_any_folder_of_a_namespace_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, file in (("one", "a.csv"), ("two", "b.csv")):
        folder = tmp_path / name / "gradsweep_test_namespace"
        folder.mkdir(parents=True)
        (folder / file).write_text("1")
        monkeypatch.syspath_prepend(folder.parent)
    for name, file in (("one", "a.csv"), ("two", "b.csv")):
        found = locate("gradsweep_test_namespace", [file], VARIABLE, INSTALL)
        assert found == [tmp_path / name / "gradsweep_test_namespace" / file]
    with pytest.raises(FileNotFoundError, match=r"no file .*c\.csv; install it again"):
        locate("gradsweep_test_namespace", ["c.csv"], VARIABLE, INSTALL)


def test_the_environment_variable_names_a_flat_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    (tmp_path / "a.csv").write_text("1")
    assert locate("no_such_package", ["data/a.csv"], VARIABLE, INSTALL) == [tmp_path / "a.csv"]
    with pytest.raises(FileNotFoundError, match=rf"no file .*b\.csv; correct {VARIABLE}, or .*pip install"):
        locate("no_such_package", ["data/b.csv"], VARIABLE, INSTALL)


def test_a_file_of_the_system_is_found_unless_the_environment_variable_names_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system, own = tmp_path / "system", tmp_path / "own"
    for folder in (system, own):
        folder.mkdir()
        (folder / "a.gz").write_text("1")
    assert locate_in(system, ["a.gz"], VARIABLE, "apt-get install a") == [system / "a.gz"]
    with pytest.raises(FileNotFoundError, match=rf"no file {system}/b\.gz; run: apt-get install a"):
        locate_in(system, ["a.gz", "b.gz"], VARIABLE, "apt-get install a")
    monkeypatch.setenv(VARIABLE, str(own))
    assert locate_in(system, ["a.gz"], VARIABLE, "apt-get install a") == [own / "a.gz"]
    with pytest.raises(FileNotFoundError, match=rf"no file {own}/b\.gz; correct {VARIABLE}, or .*apt-get install a"):
        locate_in(system, ["b.gz"], VARIABLE, "apt-get install a")


def test_a_wrong_checksum_names_the_file_and_both_sums(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"right")
    right = hashlib.sha256(b"right").hexdigest()
    verify(path, right)
    path.write_bytes(b"wrong")
    wrong = hashlib.sha256(b"wrong").hexdigest()
    with pytest.raises(ProblemError, match=rf"a\.csv: expected the sha256 {right}, got {wrong}; .*install"):
        verify(path, right)


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADSWEEP_CACHE", "/one")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("GRADSWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    assert cache_folder() == Path("/two/gradsweep")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache/gradsweep"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADSWEEP_CACHE", str(tmp_path / "deep" / "cache"))
    return tmp_path / "deep" / "cache"


class Build:
    """Counts how often it is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"x": np.arange(6, dtype=np.float32).reshape(3, 2)}


def test_arrays_are_built_once(own_cache: Path) -> None:
    build = Build()
    first, second = cached_arrays("key", build), cached_arrays("key", build)
    assert build.calls == 1
    assert np.array_equal(first["x"], build()["x"])
    assert np.array_equal(second["x"], first["x"])
    assert [path.name for path in own_cache.iterdir()] == ["key"]


def test_writing_to_a_cached_array_leaves_the_file(own_cache: Path) -> None:
    tensor = torch.from_numpy(cached_arrays("key", Build())["x"])  # a read-only array would warn here
    tensor.zero_()
    assert np.load(own_cache / "key" / "x.npy").sum() == 15


def test_a_build_that_fails_leaves_nothing(own_cache: Path) -> None:
    with pytest.raises(ValueError, match="pickle"):
        cached_arrays("key", lambda: {"good": np.zeros(3), "objects": np.array([{}])})
    assert list(own_cache.iterdir()) == []


def test_the_second_process_uses_the_arrays_of_the_first(own_cache: Path) -> None:
    build = Build()

    def build_while_another_finishes() -> dict[str, np.ndarray]:
        cached_arrays("key", build)
        return build()

    assert np.array_equal(cached_arrays("key", build_while_another_finishes)["x"], build()["x"])
    assert [path.name for path in own_cache.iterdir()] == ["key"]


@pytest.mark.slow
def test_processes_that_build_at_once_all_succeed(own_cache: Path) -> None:
    code = (
        "import numpy as np; from hpo.problems.data_cache import cached_arrays; "
        "print(cached_arrays('key', lambda: {'x': np.ones(2_000_000)})['x'].sum())"
    )
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["2000000.0"] * 3
    assert [path.name for path in own_cache.iterdir()] == ["key"]


@pytest.mark.parametrize("kept", [0, 5, 140])
def test_a_damaged_cache_says_what_to_delete(own_cache: Path, kept: int) -> None:
    folder = own_cache / "key"
    folder.mkdir(parents=True)
    np.save(folder / "x.npy", np.zeros(6))
    os.truncate(folder / "x.npy", kept)
    with pytest.raises(ProblemError, match=rf"the cache {folder} cannot be read .*delete this folder"):
        cached_arrays("key", Build())


def test_shuffled_batches_pair_the_rows_and_leave_no_row_twice() -> None:
    x = torch.arange(10)
    batches = ShuffledBatches((x, x * 10), size=3, seed=0)
    epoch = list(batches)
    assert len(epoch) == len(batches) == 3
    assert all(torch.equal(b, a * 10) and len(a) == 3 for a, b in epoch)
    assert torch.cat([a for a, _ in epoch]).unique().numel() == 9


def test_an_epoch_is_reached_by_drawing_the_earlier_orders() -> None:
    x = torch.arange(100)
    full, resumed = ShuffledBatches((x,), 10, seed=5), ShuffledBatches((x,), 10, seed=5)
    epochs = [torch.cat([batch for (batch,) in full]) for _ in range(4)]
    for _ in range(3):
        iter(resumed)
    assert torch.equal(torch.cat([batch for (batch,) in resumed]), epochs[3])


def test_ordered_batches_hold_every_row_once() -> None:
    x = torch.arange(10)
    batches = ordered_batches((x, -x), size=4)
    assert [len(a) for a, _ in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([a for a, _ in batches]), x)
    assert torch.equal(torch.cat([b for _, b in batches]), -x)
