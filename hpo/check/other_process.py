"""The hash of a problem's data in another process, as a worker of a study computes it. Depends only on torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from hpo.core.command_folder import command_folder, tell_command_folder
from hpo.problems import load_problem
from hpo.problems.base import Problem
from hpo.problems.by_value import kept_class
from hpo.problems.data_cache import prepare_once
from hpo.problems.data_digest import attribute_texts, is_plain
from hpo.problems.training_function import AnyProblem, FunctionProblem

MOST_SECONDS = 600.0
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from hpo.check.other_process import answer; answer()"
)


def may_differ(name: str, problem: Problem) -> bool:
    """Return whether another process that makes the problem may get another hash.

    That of a built-in problem, and of one that keeps only plain values, cannot.
    """
    default = type(problem).data_hash is Problem.data_hash
    built_in = type(problem).__module__.startswith("hpo.")
    return kept_class(name) is None and not built_in and not (default and is_plain(vars(problem)))


def attribute_hashes(problem: AnyProblem) -> dict[str, str]:
    """A hash for each attribute that the default ``data_hash`` takes in; empty if the problem has its own."""
    if isinstance(problem, FunctionProblem) or type(problem).data_hash is not Problem.data_hash:
        return {}
    return {
        name: sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
        for name, text in attribute_texts(problem).items()
    }


def hashes_elsewhere(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """``data_hash()`` and `attribute_hashes` of a problem that another process loads and prepares.

    Raises:
        RuntimeError: the process failed; the message is its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"  # the user's code may print
        told.write_text(json.dumps([name, dict(arguments), str(command_folder())]), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", "-c", _CODE, json.dumps(sys.path), str(told)]
        seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # sets in another order
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MOST_SECONDS,
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        found, attributes = json.loads(told.read_text(encoding="utf-8"))
    return found, attributes


def answer() -> None:
    """Answer `hashes_elsewhere` in the other process."""
    told = Path(sys.argv[2])
    name, arguments, given_in = json.loads(told.read_text(encoding="utf-8"))
    tell_command_folder(given_in)
    problem = load_problem(name, arguments)
    prepare_once(problem)
    told.write_text(json.dumps([problem.data_hash(), attribute_hashes(problem)]), encoding="utf-8")
