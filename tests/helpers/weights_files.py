"""Weights files, as `gradsweep export` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from balancers.weights_file import SCHEMA, VERSION


def write_weights_file(path: Path, weights: Mapping[str, float]) -> None:
    """Write the least that `Static.load` reads."""
    content = {"schema": SCHEMA, "version": VERSION, "tasks": list(weights), "weights": dict(weights)}
    path.write_text(json.dumps(content))
