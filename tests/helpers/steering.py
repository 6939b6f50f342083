"""Control training runs in other processes by files in a folder, and count their starts and steps."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any


class Steering:
    """The files of a folder that control the training runs of a problem.

    Args:
        folder: with ``steer.json``, a mapping that a test writes; ``starts``, a line for each start; ``steps``, a
            byte for each counted step.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def read(self, key: str, default: Any) -> Any:
        """Return what the test has written under a key."""
        try:
            return json.loads((self.folder / "steer.json").read_text()).get(key, default)
        except FileNotFoundError:
            return default

    def started(self, seed: int) -> int:
        """Write a line for this start; return its number, whichever process started how many."""
        with (self.folder / "starts").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"{seed} {os.getpid()}\n")
            file.flush()
            file.seek(0)
            return len(file.readlines())

    def step(self) -> None:
        """Count a step, which takes as many ``seconds`` as the test says, and waits while it says ``hold``."""
        with (self.folder / "steps").open("ab") as file:
            file.write(b".")
        time.sleep(self.read("seconds", 0.0))
        while self.read("hold", False):
            time.sleep(0.05)
