"""The weights file: the JSON that ``gradsweep export`` writes and production training reads. Needs no package."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SCHEMA = "gradsweep.weights"
VERSION = 1


def read_weights(path: str | Path) -> dict[str, float]:
    """Read and check a weights file.

    Args:
        path: the JSON file.

    Returns:
        For each task its weight, in the file's order; finite, above 0, summing to T.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not JSON, an unknown schema or version, no tasks, a missing task, a weight that is not a finite
            number above 0; the message names the file, the field and the find.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: should be a weights file in JSON. Found {error}.") from None
    found = (content.get("schema"), content.get("version")) if isinstance(content, dict) else type(content).__name__
    if found != (SCHEMA, VERSION):
        raise ValueError(f"{path}: `schema`, `version` should be {SCHEMA!r}, {VERSION}. Found {found}.")
    return _checked(path, content.get("tasks"), content.get("weights"))


def _checked(path: Path, tasks: Any, weights: Any) -> dict[str, float]:
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise ValueError(f"{path}: `tasks` should be a list of at least one name. Found {tasks!r}.")
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: `weights` should be an object with a number for each task. Found {weights!r}.")
    missing = [task for task in tasks if task not in weights]
    unknown = [task for task in weights if task not in tasks]
    if missing or unknown:
        raise ValueError(
            f"{path}: `weights` should have the tasks {tasks}. Found missing {missing}, unknown {unknown}."
        )
    for task, weight in weights.items():
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight <= 0:
            raise ValueError(f"{path}: weight of task {task!r} should be finite and > 0. Found {weight!r}.")
    return {task: float(weights[task]) for task in tasks}
