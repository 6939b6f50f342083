"""Benchmarks, run on the command line, and their tables."""

import os
import subprocess
import sys
from pathlib import Path


def benchmark(*arguments: str) -> tuple[str, list[list[str]]]:
    """Run one: all that it prints, and its table's rows."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
