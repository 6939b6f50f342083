"""A command as the trainer: it is given the weights as plain numbers and leaves its metrics in a JSON file."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpo.core.command_folder import command_folder
from hpo.core.errors import ProblemError
from hpo.core.text import complaint, quoted, shortened
from hpo.problems.base import Task
from hpo.problems.training_function import training

NAME = f"{__name__}:run"
OTHERS = ("seed", "metrics", "folder", "epoch")  # what a command may be given besides weights
_PLACE = re.compile(r"\{([^{}]*)\}")
_CODE_FILES = (".py", ".sh")
_INTERPRETER = re.compile(r"(?:^|/)(python[\d.]*|sh|bash)$")
_OUTPUT = 2000  # characters of the output's end that are read for a message

# A process that replaces itself by the command, and that ends with the worker that has started it.
_LAUNCHER = """
import ctypes, os, sys
try:
    ctypes.CDLL(None).prctl(1, 9)
except (AttributeError, OSError):
    pass
os.execvp(sys.argv[1], sys.argv[1:])
"""


def tasks_of(command: Any, tasks: Any, **_: Any) -> list[Task]:
    """Return the tasks of a study's ``tasks``, after a check that the command is given the weight of each.

    Args:
        command: with a place in braces for the weight of each task, for ``{seed}`` and for ``{metrics}``.
        tasks: for each task the text of its metric, or a mapping of ``metric`` and ``direction``.

    Raises:
        ProblemError: another kind of value, a task without a place, an unknown place.

    >>> tasks_of("train --depth {depth} --seed {seed} --out {metrics}", {"depth": "RMSE (m)"})
    [Task(name='depth', metric='RMSE (m)', direction='minimize')]
    """
    if not isinstance(tasks, Mapping) or not tasks:
        raise ProblemError(complaint("problem.tasks", "a mapping of each task to its metric", quoted(tasks)))
    found = [_task(name, metric) for name, metric in tasks.items()]
    if not isinstance(command, str) or not command.strip():
        raise ProblemError(complaint("problem.command", "a command line", quoted(command)))
    places = _PLACE.findall(command)
    needed = [*tasks, "seed", "metrics"]
    if missing := [name for name in needed if name not in places]:
        rule = f"a place for each of {_braced(needed)}"
        raise ProblemError(complaint("problem.command", rule, f"none for {_braced(missing)}"))
    if unknown := [name for name in places if name not in (*tasks, *OTHERS)]:
        allowed = _braced([*tasks, *OTHERS])
        raise ProblemError(complaint("problem.command", f"only {allowed} in braces", _braced(unknown)))
    try:
        shlex.split(command)
    except ValueError as error:
        raise ProblemError(complaint("problem.command", "a command line with closed quotes", error)) from None
    return found


def _task(name: Any, described: Any) -> Task:
    if name in OTHERS:
        raise ProblemError(complaint("problem.tasks", f"names other than {', '.join(OTHERS)}", repr(name)))
    if isinstance(described, str):
        return Task(name, described)
    if not isinstance(described, Mapping) or not {"metric"} <= described.keys() <= {"metric", "direction", "change"}:
        rule = "the name of its metric, or {metric: ..., direction: minimize or maximize}"
        raise ProblemError(complaint(f"problem.tasks.{name}", rule, quoted(described)))
    return Task(name, **described)


def data_hash(command: str, **more: Any) -> str:
    """Hash the Python files and shell scripts that the command names, so that trials of edited ones are others."""
    directory = _directory(more.get("directory"))
    files = [directory / word for word in shlex.split(command) if word.endswith(_CODE_FILES)]
    contents = [file.read_bytes() for file in files if file.is_file()]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()[:16]


def check_command(command: str, **more: Any) -> None:
    """Check that this machine has what the command names.

    Raises:
        ProblemError: it has no such folder, program or script.
    """
    directory = _directory(more.get("directory"))
    if not directory.is_dir():
        raise ProblemError(complaint("problem.directory", "a folder of this machine", directory))
    program, *words = shlex.split(command)
    path = None if os.sep in program else shutil.which(program)
    if _PLACE.search(program) is None and path is None and not os.access(directory / program, os.X_OK):
        raise ProblemError(complaint("problem.command", f"a program of this machine, run in {directory}", program))
    script = words[0] if words and _INTERPRETER.search(program) else ""
    if script.endswith(_CODE_FILES) and not _PLACE.search(script) and not (directory / script).is_file():
        raise ProblemError(complaint("problem.command", f"a script that is there, in {directory}", script))


def _directory(given: str | None) -> Path:
    """Return where a command runs."""
    return command_folder() / (given or ".")


@training(tasks_of, epochs=1, data_hash=data_hash, prepare=check_command)
def run(trial: Any, command: str, tasks: Any, directory: str | None = None) -> None:  # noqa: ARG001 - see `tasks_of`
    """Train by a command that takes weights as numbers.

    The command is run once in each epoch of the trial, which is one unless the study says another number. It writes
    a JSON file with ``validation``, a number for each task, and ``test``, which is read in confirm trials alone.

    Args:
        trial: of which the command is given the weights and the seed.
        command: a command line, without a shell. ``{depth}`` is the weight of the task ``depth``, ``{seed}`` the
            seed, ``{metrics}`` the path of the JSON file, ``{folder}`` a folder that an interrupted trial finds
            again, ``{epoch}`` the number of the epoch, from 0.
        tasks: for each task the text of its metric, or a mapping of ``metric`` and ``direction``.
        directory: where it runs; default: the folder in which the study is run.

    Raises:
        ValueError: it ends with another exit code than 0, or leaves no metrics.
    """
    weights = trial.weights
    for epoch in trial.epochs():
        file = trial.folder / f"metrics-{epoch}.json"
        file.unlink(missing_ok=True)
        given = weights | {"seed": trial.seed, "metrics": file, "folder": trial.folder, "epoch": epoch}
        _execute(_words(command, given), _directory(directory), trial.folder / f"output-{epoch}.txt")
        found = _read(file)
        trial.report(found.get("validation"), test=lambda found=found: found.get("test"))


def _words(command: str, given: Mapping[str, Any]) -> list[str]:
    """Return the words of a command with the values in their places."""
    return [_PLACE.sub(lambda place: str(given[place[1]]), word) for word in shlex.split(command)]


def _execute(words: list[str], directory: Path, output: Path) -> None:
    """Run a command, its output in a file."""
    with output.open("wb") as file:
        launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *words]
        code = subprocess.run(launched, cwd=directory, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode
    if code:
        end = output.read_text(encoding="utf-8", errors="replace")[-_OUTPUT:].strip().splitlines() or ["no output"]
        raise ValueError(complaint("command", "exit code 0", f"{code}: {shortened(end[-1])}"))


def _read(file: Path) -> Mapping[str, Any]:
    """Read the metrics that the command has left."""
    rule = 'a JSON file {"validation": {task: number}, "test": {task: number}} at {metrics}'
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(complaint("command", rule, "none")) from None
    except ValueError as error:
        raise ValueError(complaint("command", rule, shortened(str(error)))) from None
    if not isinstance(found, Mapping):
        raise ValueError(complaint("command", rule, quoted(found)))
    return found


def _braced(names: list[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
