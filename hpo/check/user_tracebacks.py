"""Report an exception of the user's own code in one line with its location. Uses only the standard library."""

from __future__ import annotations

import inspect
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any

from hpo.core.command_folder import command_folder
from hpo.core.errors import ProblemError
from hpo.core.text import message, one_line

_OURS = Path(__file__).resolve().parents[1]
_BALANCERS = _OURS.parent / "balancers"
_STANDARD = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}

Frame = tuple[str, int]  # file and line


def folders_of(owner: type | FunctionType) -> list[Path]:
    """Return the folder of the package of a class or function, even an installed one; of our own, the module."""
    if owner.__module__.startswith("hpo."):
        return [Path(inspect.getfile(owner)).resolve()]
    package: Any = sys.modules.get(owner.__module__.partition(".")[0])
    places = getattr(package, "__path__", None) or [getattr(package, "__file__", None)]
    return [Path(place).resolve() for place in places if place]


def told(error: BaseException, folders: Sequence[Path] = ()) -> str:
    """Return an exception in one line: the nearest file and line of the user's code, its type and its text.

    Args:
        error: the exception.
        folders: of the user's package. Other code, unless installed or gradsweep's, is the user's too.
    """
    line = message(error) if isinstance(error, ProblemError) else one_line(error)
    where = "" if isinstance(error, ProblemError) else place_of(error, folders)
    return f"{where}: {line}" if where else line


def place_of(error: BaseException, folders: Sequence[Path] = ()) -> str:
    """Return ``file:line`` of the user's frame nearest to the exception; empty if there is none."""
    return _place(
        [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)], folders
    )


def place_in(text: str, folders: Sequence[Path] = ()) -> str:
    """Return the same from a traceback as printed by Python."""
    found = re.findall(r'^ *File "(.+)", line (\d+)', text, re.MULTILINE)
    return _place([(file, int(line)) for file, line in found], folders)


def _place(frames: Iterable[Frame], folders: Sequence[Path]) -> str:
    users = [(Path(file).resolve(), line) for file, line in frames if not file.startswith("<")]
    users = [(file, line) for file, line in users if _is_users(file, folders)]
    if not users:
        return ""
    file, line = users[-1]
    here = command_folder()
    return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{line}"


def _is_users(file: Path, folders: Sequence[Path]) -> bool:
    if any(file.is_relative_to(folder) for folder in folders):
        return True
    installed = not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    return not installed and not any(file.is_relative_to(folder) for folder in (_OURS, _BALANCERS, *_STANDARD))
