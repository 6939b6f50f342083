"""The content of a weights file at an address: a path, an address of MLflow, or any address that fsspec can open.

A path needs no package. MLflow and fsspec are imported only where an address needs them.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

FILE = "weights.json"  # the name of the file in a version that `gradsweep export --register` has made
LARGEST = 10_000_000  # bytes; the file of a study takes about 600 for each task

_MLFLOW = re.compile(r"(runs|models):/")
_STORAGE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")
_RUN = re.compile(r"runs:/(?P<run_id>[^/]+)/(?P<path>.+)")
_VERSION = re.compile(r"(?P<version>models:/(?:[^/@]+@[^/]+|[^/@]+/[^/]+))(?:/(?P<path>.+))?")


def in_mlflow(address: str | Path) -> bool:
    """Return whether an address names a file in MLflow: ``runs:/...`` or ``models:/...``."""
    return isinstance(address, str) and _MLFLOW.match(address) is not None


def shown(address: str | Path) -> str:
    """Return an address for messages: user and parameters, which may be secrets, become ``***``.

    >>> shown("https://ada:s3cret@example.com/weights.json?sig=x"), shown("a?b.json")
    ('https://***@example.com/weights.json?***', 'a?b.json')
    """
    text = str(address)
    if not isinstance(address, str) or "://" not in text:
        return text
    place, mark, _ = re.sub(r"://.*@", "://***@", text).partition("?")
    return f"{place.partition('#')[0]}{mark}{'***' if mark else ''}"


def read_address(address: str | Path) -> bytes:
    """Read a small file.

    Args:
        address: a path; ``runs:/<run id>/path``; ``models:/<name>/<version>`` or ``models:/<name>@<alias>``, with a
            path or without for `FILE`; or an address of fsspec, such as ``s3://bucket/path`` or ``https://...``.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that the address needs is not installed; the message names it.
        ValueError: no such address, the file cannot be read or has more than `LARGEST` bytes.
    """
    try:
        if in_mlflow(address):
            content = _from_mlflow(str(address))
        elif isinstance(address, str) and _STORAGE.match(address):
            content = _from_storage(address)
        else:
            with Path(address).open("rb") as file:
                content = file.read(LARGEST + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{shown(address)}: expected a weights file in JSON, got {_text(error, address)}") from None
    _check_size(shown(address), len(content))
    return content


def _check_size(name: str, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"{name}: expected a weights file of at most {LARGEST} bytes, got more")


def _text(error: Exception, *addresses: str | Path) -> str:
    """Return an error in one line; its type alone if its text may repeat a secret of an address."""
    text = " ".join(str(error).split())
    if not text or any(shown(address) != str(address) for address in addresses):
        return type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."


def _from_storage(address: str) -> bytes:
    """Read a file through fsspec."""
    name = shown(address)
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImportError(f"{name}: needs fsspec, which is not installed: pip install fsspec") from None
    try:
        system, path = url_to_fs(address)
        with system.open(path, "rb") as file:
            content: bytes = file.read(LARGEST + 1)
    except FileNotFoundError as error:  # a web server that does not answer is one too, for fsspec
        cause = error.__cause__
        reason = f" ({_text(cause, address)})" if isinstance(cause, Exception) else ""
        raise FileNotFoundError(f"{name}: no such file{reason}") from None
    except ImportError as error:  # fsspec says which package to install for this kind of address
        raise ImportError(f"{name}: needs a package that is not installed: {_text(error, address)}") from None
    except Exception as error:  # each client raises its own exceptions
        raise ValueError(f"{name}: expected a file that fsspec can read, got {_text(error, address)}") from None
    return content


def _from_mlflow(address: str) -> bytes:
    """Read an artifact of a run or of a registered version, from the MLflow that ``MLFLOW_TRACKING_URI`` names."""
    found = _RUN.fullmatch(address) or _VERSION.fullmatch(address)
    if not found:
        allowed = "runs:/RUN_ID/path, models:/NAME/VERSION or models:/NAME@ALIAS"
        raise ValueError(f"{address}: expected {allowed}, got {address!r}")
    try:
        import mlflow
    except ImportError:
        raise ImportError(f"{address}: needs MLflow, which is not installed: pip install mlflow") from None
    try:
        return _artifact(address, **found.groupdict())
    except (FileNotFoundError, ValueError):
        raise
    except ImportError as error:  # of the client of an artifact store
        raise ImportError(f"{address}: needs a package that is not installed: {_text(error)}") from None
    except Exception as error:  # MLflow, SQLAlchemy and requests each raise their own
        backend = mlflow.get_tracking_uri()
        missing = getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
        raise (FileNotFoundError if missing else ValueError)(
            f"{address}: expected a file in MLflow at {shown(backend)} (MLFLOW_TRACKING_URI), "
            f"got {_text(error, backend)}"
        ) from None


def _artifact(address: str, path: str | None, run_id: str = "", version: str = "") -> bytes:
    """Download an artifact if it is a small file."""
    from mlflow.artifacts import download_artifacts, list_artifacts

    path = path or FILE
    folder = path.rpartition("/")[0]
    where: dict[str, Any] = {"artifact_uri": f"{version}/{folder}".rstrip("/")}
    if run_id:
        where = {"run_id": run_id, "artifact_path": folder or None}
    found = next((file for file in list_artifacts(**where) if file.path == path and not file.is_dir), None)
    if found is None:
        raise FileNotFoundError(f"{address}: no such file")
    _check_size(address, found.file_size or 0)
    with tempfile.TemporaryDirectory() as target:
        whole = f"{version or f'runs:/{run_id}'}/{path}"
        with Path(download_artifacts(artifact_uri=whole, dst_path=target)).open("rb") as file:
            return file.read(LARGEST + 1)
