"""The SQLite database of MLflow: whole or not there, whenever its making is killed.

MLflow makes its tables by some fifty migrations, which SQLite does not take as one transaction: a kill in between
leaves a file that MLflow refuses for good. So the tables are made in a folder beside it, and the file is renamed.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from hpo.core.files import sync
from hpo.tracking.backend import holds_no_study, sqlite_uri

SCRATCH = ".mlflow.db-"  # what the names of folders begin with in which a database is made
LOCK = ".mlflow.db.lock"
SIDES = ("-journal", "-wal", "-shm")  # files of SQLite beside a database
HALF = ".half-made"  # what is added to the name of a database whose making was killed
FIRST_ROWS = {"alembic_version": 1, "experiments": 1, "workspaces": 1}  # that MLflow itself writes
LONGEST_STEP = 60.0  # seconds without a write, after which nobody is making a database any more
LONGEST_MAKING = 600.0  # seconds to wait for another process that makes it


def prepare_database(path: Path, artifacts: Path, making: Callable[[], object] = str) -> None:
    """Make the database if it is not there, or if its making was killed before it held anything.

    Waits while another process makes it. A file that holds anything, or that is not MLflow's, is never touched; one
    that was left half made is kept under another name.

    Args:
        path: of the database.
        artifacts: the folder in which MLflow's own first experiment would keep files.
        making: called before the database is made, which takes seconds.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written, or what is there cannot be read.
    """
    if path.exists() and not holds_no_study(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / LOCK, timeout=LONGEST_MAKING):
        for left in path.parent.glob(f"{SCRATCH}*"):  # of a launch that was killed
            shutil.rmtree(left, ignore_errors=True)
        if path.exists() and path.stat().st_size and not _is_half_made(path, artifacts):
            return
        making()
        with _scratch(path.parent) as folder:
            made = folder / "mlflow.db"
            _migrate(made, artifacts)
            _set_aside(path)
            made.replace(path)
            sync(path.parent)


def write_ahead(path: Path) -> None:
    """Let readers and the writer of a database not wait for each other.

    Raises:
        sqlite3.Error: it cannot be written.
    """
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=wal")


def _set_aside(path: Path) -> None:
    """Give a half made database another name, and what SQLite has left beside it too: it would play a journal that
    was left behind into the new file.
    """
    for side in ("", *SIDES):
        old = path.with_name(f"{path.name}{side}")
        if old.exists():
            old.replace(path.with_name(f"{path.name}{HALF}{side}"))


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


def _is_half_made(path: Path, artifacts: Path) -> bool:
    """Whether a database was left between two of MLflow's migrations, and nobody has used it since.

    Its tables are MLflow's, none has a row but those that MLflow itself fills, nobody has written to it for a while,
    and MLflow cannot work with a copy of it.
    """
    if time.time() - path.stat().st_mtime < LONGEST_STEP:  # a server may be making it this moment
        return False
    with closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        known = {*Base.metadata.tables, *FIRST_ROWS}
        if not all(name in known or name.startswith("_alembic_tmp_") for name in tables):
            return False
        counts = {name: database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables}
    if any(count > FIRST_ROWS.get(name, 0) for name, count in counts.items()):
        return False
    return not _works(path, artifacts)


def _works(path: Path, artifacts: Path) -> bool:
    """Whether MLflow can work with a database, tried on a copy."""
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
    write_ahead(path)
    sync(path)


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    folder = parent / f"{SCRATCH}{uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
