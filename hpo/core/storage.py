"""A folder for small files that is local, on NFS, or in an object store. A local one needs only torch.

An address is a path or a URI. Schemes that pyarrow supports (``s3://``, ``gs://``, ``hdfs://``) use pyarrow, with
its options after a ``?``; other schemes use fsspec, a dependency of torch, and that scheme's own package.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hpo.core.errors import StorageError
from hpo.core.files import write_whole
from hpo.core.text import complaint
from hpo.core.uris import fault, has_secret, redacted, shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL = re.compile(r"file://(localhost)?(?=/)")


def absolute(address: str) -> str:
    """Make a path absolute, so that it names the same folder on every node; return a URI unchanged.

    Raises:
        StorageError: it looks like a mistyped URI that holds a secret and would become the name of a folder.
    """
    if _SCHEME.match(address):
        return address
    if has_secret(address):
        raise StorageError(
            complaint("--storage", "a folder, or a URI as in s3://bucket/prefix", repr(shown(address)))
        )
    return str(Path(address).resolve())


def below(address: str, name: str) -> str:
    """Return the address of a folder in a storage; options of a URI stay at its end."""
    if not _SCHEME.match(address):
        return str(Path(address) / name)
    place, mark, options = address.partition("?")
    return f"{place}{'' if place.endswith('/') else '/'}{name}{mark}{options}"


class Storage:
    """Files by name below one address; a file is complete or absent.

    Args:
        address: a path or a URI, for example ``s3://bucket/prefix``.

    Raises:
        StorageError: no installed package can open the URI.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._system: Any = None  # fsspec's; None for this machine's file system
        self._root = unquote(_LOCAL.sub("", address)) if _LOCAL.match(address) else address
        if _SCHEME.match(self._root):
            self._system, self._root = _opened(address)

    def __str__(self) -> str:
        """The address for display, without its secrets."""
        return shown(self.address) if _SCHEME.match(self.address) else self.address

    def local(self, name: str) -> Path | None:
        """Return the path of a file or folder; ``None`` in an object store, which has none."""
        return Path(self._path(name)) if self._system is None else None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".rstrip("/")

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(name)
        if self._system is not None:
            self._pipe(path, content)
            return
        write_whole(Path(path), content)

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Turn the exceptions of storage clients into `OSError`, which callers handle and print."""
        try:
            return call()
        except Exception as error:
            text = redacted(" ".join(str(error).split()), self.address)
            if not isinstance(error, OSError):
                raise OSError(f"{type(error).__name__}: {text}") from None
            if redacted(str(error), self.address) == str(error):
                raise
            raise (FileNotFoundError if isinstance(error, FileNotFoundError) else OSError)(text) from None

    def _pipe(self, path: str, content: bytes) -> None:
        """Write one object. An object store shows only complete objects; readers detect a broken write on HDFS."""
        try:
            self._ask(lambda: self._system.pipe_file(path, content))
        except FileNotFoundError:  # a file system, unlike a store, wants the folder first
            self._ask(lambda: self._system.makedirs(path.rpartition("/")[0], exist_ok=True))
            self._ask(lambda: self._system.pipe_file(path, content))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: it is not there or cannot be read.
        """
        path = self._path(name)
        return Path(path).read_bytes() if self._system is None else self._ask(lambda: self._system.cat_file(path))

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders in a folder, sorted; empty if there is none."""
        path = self._path(folder)
        try:
            if self._system is None:
                return sorted(entry.name for entry in Path(path).iterdir() if not entry.name.startswith("."))
            self._system.invalidate_cache()
            found = self._ask(lambda: self._system.ls(path, detail=False))
            return sorted(entry.rstrip("/").rpartition("/")[2] for entry in found)
        except FileNotFoundError:
            return []

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with all its files; do nothing if it is absent.

        Raises:
            OSError: it cannot be removed.
        """
        path = self._path(name)
        if self._system is not None:
            self._system.invalidate_cache()
            if self._ask(lambda: self._system.exists(path)):
                self._ask(lambda: self._system.rm(path, recursive=True))
            return
        target = Path(path)
        if target.is_dir():
            shutil.rmtree(target, ignore_errors=True)  # another node may be removing it too
        else:
            target.unlink(missing_ok=True)


def _opened(address: str) -> tuple[Any, str]:
    if wrong := fault(address, "--storage"):
        raise StorageError(wrong)
    try:
        return _arrow(address) or _fsspec(address)
    except Exception as error:  # each client raises its own exceptions
        text = " ".join(redacted(str(error) or type(error).__name__, address).split())
        raise StorageError(f"--storage: {shown(address)} cannot be used: {text[:300]}") from None


def _arrow(address: str) -> tuple[Any, str] | None:
    """Open a URI with pyarrow; ``None`` if it is not installed or does not support the scheme."""
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.fs import FileSystem
    except ImportError:
        return None
    from fsspec.implementations.arrow import ArrowFSWrapper

    try:
        system, path = FileSystem.from_uri(address)
    except ArrowInvalid as error:
        if "nrecognized filesystem type" in str(error):
            return None
        raise
    return ArrowFSWrapper(system), path.rstrip("/")


def _fsspec(address: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address)
    return system, str(path).rstrip("/")
