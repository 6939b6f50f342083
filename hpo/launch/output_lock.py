"""One launch of a study at a time in one output folder: a lock that the kernel releases when a driver dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from hpo.core.errors import OutputError

LOCK = ".lock"
MOST_BYTES = 1_000_000  # of a study file, as in `hpo.study.spec`


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock the study's folder, created if needed, for one launch at a time.

    Raises:
        OutputError: another launch holds it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0.5, poll_interval=0.05)  # `refuse_second_launch` may hold it for a moment
    except Timeout:
        raise _refusal(folder) from None
    except OSError as error:
        raise OutputError(f"--output: {folder} cannot be written: {error.strerror}") from None
    with lock:
        yield


def refuse_second_launch(study_file: Path, output: Path) -> None:
    """Refuse a launch beside one that is running, before torch, MLflow and the data are loaded.

    Only an early check: `locked` decides. A file that cannot be read, or only once (a pipe), is left to the code that
    reads it in full.

    Raises:
        OutputError: another launch has the study's folder.
    """
    with suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
        name = _name_in(study_file) if study_file.is_file() else None
        if name is None:
            return
        folder = (output / name).resolve()
        with (folder / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _refusal(folder) from None


def _refusal(folder: Path) -> OutputError:
    return OutputError(f"--output: another launch of study {folder.name!r} is running in {folder}")


def _name_in(study_file: Path) -> str | None:
    """Return the value of the top-level key ``name``, read from YAML's events, so that no alias is expanded."""
    with study_file.open("rb") as file:
        text = file.read(MOST_BYTES).decode()
    depth, scalars = 0, list[str]()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent) and depth == 1:
            scalars.append(event.value)
            if scalars[-2:-1] == ["name"]:
                return scalars[-1]
    return None
