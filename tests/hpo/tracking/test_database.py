"""MLflow's SQLite database is complete or absent, whenever its creation is killed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpo.core.errors import TrackingError
from hpo.tracking.backend import embedded_uri, holds_no_study
from hpo.tracking.database import HALF, LOCK, SCRATCH, SIDES, prepare_database
from hpo.tracking.experiment import StudyExperiment
from tests.helpers.runs import main


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in which nothing has been written yet."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    prepare_database(path, path.parent / "artifacts")
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mlflow.db"
    path.write_bytes(whole.read_bytes())
    return path


def half(path: Path) -> None:
    """Leave a database as a kill between two of MLflow's migrations does: tables of later ones are missing."""
    with closing(sqlite3.connect(path)) as database:
        (first,) = database.execute("SELECT version_num FROM alembic_version").fetchone()
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # the first migration of all
        database.execute("DROP TABLE registered_models")
        database.commit()
    assert first != "451aebb31d03"
    rest(path)


def rest(path: Path) -> None:
    """As if nobody had written to it for long."""
    os.utime(path, (0, 0))


def test_it_is_made_once_and_leaves_nothing_beside_it(whole):
    assert names(whole.parent) == [LOCK, "mlflow.db"]
    assert {"runs", "experiments", "alembic_version"} <= tables(whole)
    with closing(sqlite3.connect(whole)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert holds_no_study(whole)


FILLED = {
    "an experiment": lambda path: MlflowClient(f"sqlite:///{path}").create_experiment("mine"),
    "a registered model": lambda path: MlflowClient(f"sqlite:///{path}").create_registered_model("mine"),
    "a table that is not MLflow's": lambda path: execute(path, "CREATE TABLE mine (a)"),
    "tables of another program": lambda path: (
        path.write_bytes(b"") or execute(path, "CREATE TABLE tags (a)", "INSERT INTO tags VALUES (1)")
    ),
}


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        for statement in statements:
            database.execute(statement)


@pytest.mark.parametrize("what", FILLED)
def test_a_database_with_content_is_kept_even_if_mlflow_cannot_use_it(copy, what):
    FILLED[what](copy)
    if "alembic_version" in tables(copy):
        execute(copy, "UPDATE alembic_version SET version_num = '451aebb31d03'")  # of the first migration of all
    rest(copy)
    prepare_database(copy, copy.parent / "artifacts", lambda: pytest.fail("made again"))
    assert not copy.with_name(f"mlflow.db{HALF}").exists()


def test_a_database_that_may_be_in_creation_is_left_alone(copy):
    half(copy)
    os.utime(copy)
    prepare_database(copy, copy.parent / "artifacts", lambda: pytest.fail("made again"))
    with pytest.raises(TrackingError, match="cannot be used: "):
        StudyExperiment(embedded_uri(copy.parent), "study", copy.parent)


def test_readers_and_the_writer_of_one_that_a_server_has_made_do_not_wait_for_each_other(tmp_path):
    MlflowClient(f"sqlite:///{tmp_path / 'server.db'}").search_experiments()
    StudyExperiment(f"sqlite:///{tmp_path / 'server.db'}", "study", tmp_path)
    with closing(sqlite3.connect(tmp_path / "server.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_complete_database_without_a_study_is_kept(copy):
    inode = copy.stat().st_ino
    prepare_database(copy, copy.parent / "artifacts", lambda: pytest.fail("made again"))
    assert copy.stat().st_ino == inode


def test_one_that_was_killed_half_way_is_kept_aside_with_its_journal_and_made_again(copy):
    half(copy)
    assert "registered_models" not in tables(copy)
    for side in SIDES[1:]:
        copy.with_name(f"mlflow.db{side}").write_bytes(b"of the killed process")
    (copy.parent / f"{SCRATCH}killed").mkdir()
    store = StudyExperiment(embedded_uri(copy.parent), "study", copy.parent)
    assert "registered_models" in tables(copy)
    assert store.records() == []
    assert not list(copy.parent.glob(f"{SCRATCH}*"))
    aside = copy.with_name(f"mlflow.db{HALF}")
    assert aside.exists()


@pytest.mark.parametrize("command", ["report", "export", "ui"])
def test_commands_that_only_read_treat_an_incomplete_database_as_absent(copy, command, capsys, monkeypatch):
    half(copy)
    study = copy.parent / "study.yaml"
    study.write_text("{name: small, problem: toy}")
    monkeypatch.chdir(copy.parent)
    arguments = [] if command == "ui" else [str(study)]
    code, out, err = main(capsys, command, *arguments, "--output", str(copy.parent))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "run it first" in err or "run one first" in err


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda path: path.write_bytes(b"not a database, but long enough to be taken for one" * 100),
            "not a database",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "malformed"),
    ],
)
def test_one_that_is_damaged_is_refused_in_a_line_and_kept(copy, damage, says):
    damage(copy)
    before = copy.read_bytes()
    with pytest.raises(TrackingError) as refused:
        StudyExperiment(embedded_uri(copy.parent), "study", copy.parent)
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert copy.read_bytes() == before


def test_two_processes_that_open_a_fresh_folder_at_once_both_work(tmp_path):
    code = (
        "import sys; from pathlib import Path\nfrom hpo.tracking import backend\n"
        "from hpo.tracking.experiment import StudyExperiment\n"
        "folder = Path(sys.argv[1]); StudyExperiment(backend.embedded_uri(folder), sys.argv[2], folder)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stderr=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    assert [(process.communicate()[1], process.returncode) for process in both] == [("", 0), ("", 0)]
    found = {experiment.name for experiment in MlflowClient(embedded_uri(tmp_path)).search_experiments()}
    assert found == {"Default", "first", "second"}
