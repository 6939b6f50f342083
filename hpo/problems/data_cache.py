"""Helpers of the built-in problems: finding and checking source files, a cache on disk, batches in memory."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from hpo.core.errors import ProblemError
from hpo.core.files import whole_folder
from hpo.problems.base import Problem
from hpo.problems.training_function import AnyProblem, FunctionProblem

Arrays = dict[str, NDArray[Any]]

# Rows per batch where no gradient is kept: large enough that Python's overhead is negligible.
EVALUATION_BATCH = 8192


def locate(package: str, files: Sequence[str], variable: str, install: str) -> list[Path]:
    """Find data files that an installed package carries, without importing it.

    Args:
        package: a top-level package; its code is not run.
        files: paths relative to the package's folder.
        variable: an environment variable; if set, it names the folder that contains the files.
        install: the command that installs the package, for the message.

    Returns:
        The paths, in the order of ``files``.

    Raises:
        FileNotFoundError: a file is missing; the message says where it was looked for and what to run.
    """
    if chosen := os.environ.get(variable):
        folder, remedy = Path(chosen).expanduser(), f"correct {variable}, or unset it and run: {install}"
        return [_existing(folder / Path(file).name, remedy) for file in files]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"package {package!r} is not installed and holds the data; run: {install} "
            f"(or set {variable} to the folder that holds {', '.join(Path(file).name for file in files)})"
        )
    folders = [Path(entry) for entry in spec.submodule_search_locations]  # of a namespace package there may be more
    folder = next((folder for folder in folders if (folder / files[0]).is_file()), folders[0])
    return [_existing(folder / file, f"install it again: {install}") for file in files]


def locate_in(folder: Path, files: Sequence[str], variable: str, install: str) -> list[Path]:
    """Find data files that a package of the operating system puts into a folder.

    Args:
        folder: where that package puts them.
        files: their names.
        variable: an environment variable; where set, it names another folder.
        install: the command that installs the package, for the message.

    Returns:
        The paths, in the order of ``files``.

    Raises:
        FileNotFoundError: a file is missing; the message says where it was looked for and what to run.
    """
    chosen = os.environ.get(variable)
    place = Path(chosen).expanduser() if chosen else folder
    remedy = f"correct {variable}, or unset it and run: {install}" if chosen else f"run: {install}"
    return [_existing(place / file, remedy) for file in files]


def _existing(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; {remedy}")
    return path


def verify(path: Path, sha256: str) -> None:
    """Check that a file is the one that this version of gradsweep was written for.

    Args:
        path: the file.
        sha256: its checksum in 64 hexadecimal digits.

    Raises:
        ProblemError: another checksum.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ProblemError(
            f"data: {path}: expected the sha256 {sha256}, got {found}; the file is damaged or of another version, "
            "install its package again or point the environment variable at an intact copy"
        )


def short_hash(*parts: object) -> str:
    """Hash the ``repr`` of the parts to 16 hexadecimal digits."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return the cache: ``$GRADSWEEP_CACHE``, or the folder ``gradsweep`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("GRADSWEEP_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gradsweep"


def prepare_once(problem: AnyProblem) -> None:
    """Prepare a problem's data, in one process of this machine at a time; later processes find them ready."""
    owner: Any = problem.training if isinstance(problem, FunctionProblem) else type(problem)
    if owner.prepare in (None, Problem.prepare):
        return
    folder = Path(tempfile.gettempdir()) / f"gradsweep-locks-{os.getuid()}"
    with ExitStack() as held:
        with suppress(OSError, NotImplementedError):  # a disk that is full or knows no locks
            folder.mkdir(mode=0o700, exist_ok=True)
            held.enter_context(FileLock(folder / short_hash(owner.__module__, owner.__qualname__)))
        problem.prepare()


def cached_arrays(key: str, build: Callable[[], Arrays]) -> Arrays:
    """Return arrays from the cache, built on the first call on this machine.

    The files are mapped into memory, so all processes on a machine share one copy. The mapping is copy-on-write:
    writing to an array changes this process alone, and torch takes it without a warning. Two processes that build
    at once both succeed: each writes a folder of its own, and the first rename wins.

    Args:
        key: a folder's name that changes whenever the arrays change.
        build: makes the arrays; not called if they are cached.

    Raises:
        ProblemError: the cached files cannot be read.
    """
    folder = cache_folder() / key
    if not folder.is_dir():
        _store(folder, build())
    return _open(folder)


def _store(folder: Path, arrays: Arrays) -> None:
    try:
        with whole_folder(folder) as scratch:
            for name, array in arrays.items():
                np.save(scratch / f"{name}.npy", array, allow_pickle=False)
    except OSError:
        if not folder.is_dir():  # else another process was first, with the same content
            raise


@lru_cache(maxsize=16)
def _open(folder: Path) -> Arrays:
    try:
        return {path.stem: np.load(path, mmap_mode="c", allow_pickle=False) for path in folder.glob("*.npy")}
    except (OSError, EOFError, ValueError) as error:
        raise ProblemError(f"data: the cache {folder} cannot be read ({error}); delete this folder") from error


class ShuffledBatches:
    """Training batches cut from tensors in memory, in a new order each time it is iterated.

    All permutations come from one generator, so the n-th ``iter()`` of equal objects gives the same order; its state
    goes into checkpoints. Rows that do not fill a batch are left out of that epoch, so that all batches are of one
    size.

    Args:
        tensors: each (N, ...), the same N.
        size: rows in a batch, at most N.
        seed: fixes the orders.
    """

    def __init__(self, tensors: tuple[Tensor, ...], size: int, seed: int) -> None:
        self._tensors = tensors
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Batches in one epoch."""
        return len(self._tensors[0]) // self._size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Draw the next permutation, at once, and cut it into batches."""
        order = torch.randperm(len(self._tensors[0]), generator=self._generator)
        chunks = torch.split(order[: len(self) * self._size], self._size)
        return (tuple(tensor[rows] for tensor in self._tensors) for rows in chunks)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state from which the next ``iter()`` starts."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self._generator.set_state(state["generator"])


def ordered_batches(tensors: tuple[Tensor, ...], size: int = EVALUATION_BATCH) -> list[tuple[Tensor, ...]]:
    """Iterate over all rows once, in stored order, as views of the tensors; the last batch may be smaller."""
    return list(zip(*(torch.split(tensor, size) for tensor in tensors), strict=True))
