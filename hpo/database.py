"""The SQLite database of MLflow: whole or not there, whenever its making is killed.

MLflow makes its tables by some fifty migrations, which SQLite does not take as one transaction: a kill in between
leaves a file that MLflow refuses for good. So the tables are made in a folder beside it, and the file is renamed.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import hpo.environment  # noqa: F401  isort: skip - before mlflow
from filelock import FileLock
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from hpo.backend import holds_nothing, sqlite_uri

SCRATCH = ".mlflow.db-"  # what the names of folders begin with in which a database is made
LOCK = ".mlflow.db.lock"
SIDES = ("-journal", "-wal", "-shm")  # files of SQLite beside a database


def prepare_database(path: Path, artifacts: Path, making: Callable[[], object] = str) -> None:
    """Make the database, if it is not there or if its making was killed before it held anything.

    Waits while another process makes it. A file that holds a run or an experiment is never touched.

    Args:
        path: of the database.
        artifacts: the folder in which MLflow's own first experiment would keep files.
        making: called before the database is made, which takes seconds.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written, or what is there cannot be read.
    """
    if _has_content(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / LOCK):
        for left in path.parent.glob(f"{SCRATCH}*"):  # of a launch that was killed
            shutil.rmtree(left, ignore_errors=True)
        if _has_content(path) or (path.exists() and _usable_copy(path, artifacts)):
            return
        making()
        with _scratch(path.parent) as folder:
            made = folder / "mlflow.db"
            _migrate(made, artifacts)
            for side in SIDES:  # SQLite would play a journal that was left behind into the new file
                path.with_name(f"{path.name}{side}").unlink(missing_ok=True)
            made.replace(path)
            _sync(path.parent)


def move_artifacts(path: Path, experiment: str, old: str, new: str) -> None:
    """Have an experiment and its runs look for their artifacts elsewhere; MLflow fixes the place for good.

    Args:
        path: of the database.
        experiment: its id.
        old: URI of the folder in which they were.
        new: URI of the folder in which they are.

    Raises:
        sqlite3.Error: the database cannot be written.
    """
    with closing(sqlite3.connect(path)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # names of ours
                f"WHERE experiment_id = ? AND ({column} = ? OR substr({column}, 1, ?) = ?)",
                (new, len(old) + 1, experiment, old, len(old) + 1, f"{old}/"),
            )


def _has_content(path: Path) -> bool:
    return path.exists() and not holds_nothing(path)


def _usable_copy(path: Path, artifacts: Path) -> bool:
    """Whether MLflow can work with a database that holds nothing, tried on a copy."""
    with _scratch(path.parent) as folder:
        copy = folder / "copy.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        try:
            _migrate(copy, artifacts)
        except Exception:  # MLflow, SQLAlchemy and alembic each have their own
            return False
    return True


def _migrate(path: Path, artifacts: Path) -> None:
    """Let MLflow make its tables in a file, and close the file."""
    store = SqlAlchemyStore(sqlite_uri(path), artifacts.as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=wal")  # readers and the writer do not wait for each other
    _sync(path)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    folder = parent / f"{SCRATCH}{uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    number = os.open(path, os.O_RDONLY)
    with suppress(OSError):  # some disks cannot sync a folder
        os.fsync(number)
    os.close(number)
