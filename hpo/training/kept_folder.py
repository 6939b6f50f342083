"""A folder for files of a trial's own, which another node finds again. Uses only the standard library."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from pathlib import Path

from hpo.core.storage import Storage
from hpo.core.text import message

COST = 50  # minimum time between keeping the files twice, in durations of it


class KeptFolder:
    """A folder in a storage; of an object store, a copy on this machine, which is uploaded as one archive.

    Args:
        storage: of the study; ``None`` keeps nothing.
        name: of the folder.
        seconds: between keeping the files twice, at least.
        uploads: whether a copy is uploaded; the processes of a trial other than rank 0 only read.

    Attributes:
        path: of the folder on this machine.
        warnings: for the user.
    """

    def __init__(self, storage: Storage | None, name: str = "", seconds: float = 0.0, uploads: bool = True) -> None:
        self._archive, self._seconds = f"{name}.tar", seconds
        self._last, self._cost = time.monotonic(), 0.0
        self.warnings: list[str] = []
        local = None if storage is None else storage.local(name)
        self._is_copy = local is None
        self.path = local or Path(tempfile.mkdtemp(prefix="gradsweep-trial-"))
        self.path.mkdir(parents=True, exist_ok=True)
        self._store = storage if self._is_copy else None  # where the copy is uploaded
        if self._store is not None:
            self._download(self._store)
        if not uploads:
            self._store = None

    @property
    def due(self) -> bool:
        """True if it is time to keep the files again."""
        return time.monotonic() - self._last >= max(self._seconds, COST * self._cost)

    def save(self, now: bool = False, since: float | None = None) -> None:
        """Upload the copy, if there is one and it is time; an error here does not end the trial.

        Args:
            now: whether it is always time.
            since: the `time.monotonic` at which writing the files began; ``None`` does not count their writing.
        """
        if not (now or self.due):
            return
        start = time.monotonic() if since is None else since
        if self._store is not None:
            self._upload(self._store)
        self._last = time.monotonic()
        self._cost = self._last - start

    def _upload(self, storage: Storage) -> None:
        content = io.BytesIO()
        try:
            with tarfile.open(fileobj=content, mode="w") as archive:
                archive.add(self.path, arcname=".")
            storage.write(self._archive, content.getvalue())
        except OSError as error:
            self._warn(f"trial.folder is not kept any more, since it could not be written to {storage}", error)
            self._store = None  # do not try again: each failure takes as long

    def close(self) -> None:
        """Remove the copy."""
        if self._is_copy:
            shutil.rmtree(self.path, ignore_errors=True)

    def _download(self, storage: Storage) -> None:
        try:
            content = storage.read(self._archive)
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                archive.extractall(self.path, filter="data")  # no file outside of it
        except FileNotFoundError:
            return
        except (OSError, tarfile.TarError) as error:
            self._warn(f"trial.folder is empty, since it could not be read from {storage}", error)

    def _warn(self, text: str, error: Exception) -> None:
        self.warnings.append(f"{text}: {message(error)}")
