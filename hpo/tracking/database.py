"""MLflow's SQLite database, created atomically: a kill at any moment leaves it complete or absent.

MLflow creates its tables by some fifty migrations, which SQLite cannot run as one transaction: a kill between two of
them leaves a file that MLflow always refuses. So the tables are created in a folder beside it, and then the file is
renamed.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock
from mlflow.store.db.base_sql_model import Base
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from hpo.core.files import sync
from hpo.tracking.backend import holds_no_study, sqlite_uri

SCRATCH = ".mlflow.db-"  # prefix of the folders in which a database is created
LOCK = ".mlflow.db.lock"
SIDES = ("-journal", "-wal", "-shm")  # files of SQLite beside a database
HALF = ".half-made"  # suffix of a database whose creation was killed
FIRST_ROWS = {"alembic_version": 1, "experiments": 1, "workspaces": 1}  # that MLflow itself writes
LONGEST_STEP = 60.0  # seconds without a write, after which no process is creating the database any more
LONGEST_MAKING = 600.0  # seconds to wait for another process that creates it


def prepare_database(path: Path, artifacts: Path, making: Callable[[], object] = str) -> None:
    """Create the database if it is absent, or if its creation was killed before it held any data.

    Waits while another process creates it. A file that holds data, or that is not MLflow's, is never touched; an
    incomplete one is kept under another name.

    Args:
        path: of the database.
        artifacts: the artifact folder of MLflow's default experiment.
        making: called before the database is created, which takes seconds.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written, or an existing file cannot be read.
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
    """Switch a database to WAL mode, so that readers and the writer do not block each other.

    Raises:
        sqlite3.Error: it cannot be written.
    """
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=wal")


def _set_aside(path: Path) -> None:
    """Rename an incomplete database with its journal, which SQLite would otherwise replay into the new file."""
    for side in ("", *SIDES):
        old = path.with_name(f"{path.name}{side}")
        if old.exists():
            old.replace(path.with_name(f"{path.name}{HALF}{side}"))


def move_artifacts(path: Path, experiment: str, old: str, new: str) -> None:
    """Change the artifact location of an experiment and its runs; MLflow itself never changes it.

    Args:
        path: of the database.
        experiment: its id.
        old: URI of the previous artifact folder.
        new: URI of the present artifact folder.

    Raises:
        sqlite3.Error: the database cannot be written.
    """
    with closing(sqlite3.connect(path)) as database, database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # constants of this module
                f"WHERE experiment_id = ? AND ({column} = ? OR substr({column}, 1, ?) = ?)",
                (new, len(old) + 1, experiment, old, len(old) + 1, f"{old}/"),
            )


def _is_half_made(path: Path, artifacts: Path) -> bool:
    """Return whether a database was left between two of MLflow's migrations and has not been used since.

    Such a database has only MLflow's tables, rows only in tables that MLflow itself fills, no recent write, and
    MLflow cannot open a copy of it.
    """
    if time.time() - path.stat().st_mtime < LONGEST_STEP:  # a server may be creating it right now
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
    """Return whether MLflow can open a database, tried on a copy."""
    with _scratch(path.parent) as folder:
        copy = folder / "copy.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        try:
            _migrate(copy, artifacts)
        except Exception:  # MLflow, SQLAlchemy and alembic each raise their own
            return False
    return True


def _migrate(path: Path, artifacts: Path) -> None:
    """Let MLflow create its tables in a file, and close the file.

    It does so in a thread, where no signal raises: in the middle of a statement, SQLAlchemy may answer an interrupt
    with an error of its own, or never. An interrupt therefore takes effect when the tables are there.
    """

    def create() -> None:
        store = SqlAlchemyStore(sqlite_uri(path), artifacts.as_uri())
        store.engine.dispose()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(create).result()
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
