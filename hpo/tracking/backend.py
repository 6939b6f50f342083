"""MLflow's backend: its URI, a check that it answers, and the file of an embedded one."""

from __future__ import annotations

import os
import platform
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from hpo.core.errors import OutputError, TrackingError
from hpo.core.text import complaint
from hpo.core.uris import DATABASES, fault, host_and_port, redacted, scheme, shown

UI_VIEW = "workflowType=machine_learning"  # else MLflow's UI opens on pages for language models


def embedded_uri(output: Path) -> str:
    """Return the default backend: SQLite in the output folder.

    Raises:
        OutputError: SQLAlchemy cannot represent this folder's name.
    """
    return sqlite_uri((output / "mlflow.db").resolve())


def sqlite_uri(path: Path) -> str:
    """Return the URI of an SQLite file, quoted where its path needs it.

    Raises:
        OutputError: SQLAlchemy cannot represent this path.
    """
    # SQLAlchemy ends a path at its "?" and, from 2.1 on, unquotes it. MLflow creates the folder of the URI's path
    # without unquoting it: if the slashes are quoted too, that is the current folder, so no stray folder appears.
    for uri in (f"sqlite:///{path}", f"sqlite:///{quote(str(path), safe='')}"):
        if fault(uri) is None and sqlite_path(uri) == path:
            return uri
    raise OutputError(complaint("--output", "a path without '?' and '%'", repr(str(path.parent))))


def machine() -> str:
    """Describe this machine in a few words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"


def check_answers(uri: str) -> None:
    """Check briefly that a backend answers, because MLflow's clients would try for minutes.

    Raises:
        TrackingError: nothing answers, or MLflow cannot use this kind of backend.
    """
    if wrong := fault(uri, "--tracking-uri"):
        raise TrackingError(wrong)
    where, kind = shown(uri), scheme(uri)
    try:
        if is_server(uri):
            _knock(uri)
        elif kind in DATABASES:
            wait = {} if kind == "mssql" else {"connect_timeout": 5}
            create_engine(uri, connect_args=wait).connect().close()
        elif not uri.startswith("sqlite:///"):
            raise TrackingError(
                complaint(
                    "--tracking-uri",
                    "http://host:port, https://..., sqlite:///path/mlflow.db, postgresql://user@host/database, "
                    "mysql://..., mssql://...",
                    repr(where),
                )
            )
    except ModuleNotFoundError as error:
        hint = f"pip install {'psycopg[binary]' if error.name == 'psycopg' else error.name}"
        raise TrackingError(f"--tracking-uri: {where} needs a package that is not installed: {hint}") from None
    except (OSError, ValueError, SQLAlchemyError) as error:
        raise TrackingError(f"--tracking-uri: nothing answers at {where}: {first_line(error, uri)}") from None


def _knock(uri: str) -> None:
    host, port = host_and_port(uri)
    if not host:
        raise ValueError("it names no host")
    socket.create_connection((host, port or (443 if scheme(uri) == "https" else 80)), 5).close()


def is_server(uri: str) -> bool:
    """Return whether a URI names a tracking server rather than a database."""
    return uri.startswith(("http://", "https://"))


def sqlite_path(uri: str) -> Path | None:
    """Return the file of an SQLite backend, ``None`` for any other."""
    if not uri.startswith("sqlite:///"):
        return None
    try:
        return Path(make_url(uri).database or "")
    except (SQLAlchemyError, ValueError):
        return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def holds_no_study(path: Path) -> bool:
    """Return whether a database is absent, or has no run and no experiment other than MLflow's default one.

    Raises:
        sqlite3.Error: the file cannot be read, is not a database, or is locked.
    """
    if not path.exists() or not path.stat().st_size:
        return True
    with closing(sqlite3.connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        limits = {"runs": 0, "experiments": 1}
        counts = {
            table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # a name of ours
            for table in limits.keys() & tables
        }
    return all(count <= limits[table] for table, count in counts.items())


def first_line(error: BaseException, uri: str) -> str:
    """Return the first line of an error, without the URI's secrets."""
    lines = [line.strip() for line in redacted(str(error), uri).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@event.listens_for(Engine, "connect")
def _relax_sqlite(connection: Any, _: Any) -> None:
    """Skip the fsync of each transaction: in WAL mode a power cut loses at most the last second of data."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=normal")
