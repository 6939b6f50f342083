from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hpo.core.files import whole_folder, write_whole


def test_a_file_takes_the_place_of_another_in_one_go(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with write_whole(path, "long text é").open(encoding="utf-8") as before:
        write_whole(path, b"\xff")
        assert before.read() == "long text é"  # who reads on has the old one, whole
    assert path.read_bytes() == b"\xff"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError, match=r"a\.txt"):
        write_whole(tmp_path / "a.txt", "text")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "b.txt", "\udcff")
    assert [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_is_hidden_until_it_is_complete(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "new" / "folder") as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "a.txt").write_text("1")
        assert [one.name[0] for one in (tmp_path / "new").iterdir()] == ["."]
    assert [str(one.relative_to(tmp_path)) for one in (tmp_path / "new").rglob("*.txt")] == ["new/folder/sub/a.txt"]
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["folder"]


def make(folder: Path, text: str, meanwhile: Callable[[], object] = str) -> None:
    with whole_folder(folder) as scratch:
        (scratch / "a.txt").write_text(text)
        meanwhile()


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "folder", "text", interrupted)
    assert not list(tmp_path.iterdir())


def test_of_two_writers_of_one_folder_the_first_wins(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(OSError, match="folder"):
        make(folder, "late", lambda: make(folder, "first"))
    assert [one.read_text() for one in tmp_path.rglob("*.txt")] == ["first"]
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
