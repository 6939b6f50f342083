"""The weights file: the JSON that ``gradsweep export`` writes and production training reads."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from balancers.weights_address import read_address, shown

SCHEMA = "gradsweep.weights"
VERSION = 1


def read_weights(path: str | Path) -> dict[str, float]:
    """Read and check a weights file.

    Args:
        path: the JSON file, or an address that `read_address` takes.

    Returns:
        For each task its weight, in the file's order; finite and above 0. ``gradsweep export`` writes weights that
        sum to T; of any others, `Static` takes the ratios.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that the address needs is not installed.
        ValueError: cannot be read, not JSON, an unknown schema or version, no tasks, a missing or repeated task, a
            weight that is not a finite number above 0; the message names the file, the field and the value.
    """
    weights: dict[str, float] = read_content(path)["weights"]
    return weights


def read_content(path: str | Path) -> dict[str, Any]:
    """Read a weights file with all of its fields, of which only schema, version, tasks and weights are checked.

    Args:
        path: as for `read_weights`.

    Returns:
        The fields; ``weights`` is what `read_weights` returns.

    Raises:
        FileNotFoundError, ImportError, ValueError: as for `read_weights`.
    """
    name, raw = shown(path), read_address(path)
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_each_once)
    except (RecursionError, ValueError) as error:  # lists without end, bytes that are no text, no JSON, ...
        raise ValueError(f"{name}: expected a weights file in JSON, got {_cut(str(error))}") from None
    found = (content.get("schema"), content.get("version")) if isinstance(content, dict) else type(content).__name__
    if found != (SCHEMA, VERSION):
        raise ValueError(f"{name}: schema, version: expected {(SCHEMA, VERSION)}, got {_shown(found)}")
    return {**content, "weights": _checked(name, content.get("tasks"), content.get("weights"))}


def _checked(path: str, tasks: Any, weights: Any) -> dict[str, float]:
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise ValueError(f"{path}: tasks: expected a list of at least one name, got {_shown(tasks)}")
    names = set(tasks)
    if len(names) != len(tasks):
        raise ValueError(f"{path}: tasks: expected names, each once, got {_shown(tasks)}")
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: weights: expected an object with a number for each task, got {_shown(weights)}")
    missing = [task for task in tasks if task not in weights]
    unknown = [task for task in weights if task not in names]
    if missing or unknown:
        raise ValueError(
            f"{path}: weights: expected the tasks {_shown(tasks)}, "
            f"got missing {_shown(missing)}, unknown {_shown(unknown)}"
        )
    for task, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 < weight <= sys.float_info.max:  # an integer may be larger than any float
            raise ValueError(f"{path}: weights[{_shown(task)}]: expected a finite number > 0, got {_shown(weight)}")
    return {task: float(weights[task]) for task in tasks}


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object and refuse repeated keys, whose value differs between JSON readers."""
    content = dict(pairs)
    if len(content) != len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {_shown(key)} twice")
    return content


def _shown(value: object) -> str:
    try:
        return _cut(repr(value))
    except RecursionError:  # nearly too deep to be read
        return f"a {type(value).__name__}"


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def write_weights(path: str | Path, weights: dict[str, float]) -> None:
    """Write a weights file that `read_weights` reads, atomically.

    Args:
        path: the JSON file.
        weights: for each task its weight.

    Raises:
        ValueError: a weight is not finite and above 0.
    """
    path = Path(path)
    checked = _checked(str(path), list(weights), weights)
    content = {"schema": SCHEMA, "version": VERSION, "tasks": list(checked), "weights": checked}
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    part.replace(path)
