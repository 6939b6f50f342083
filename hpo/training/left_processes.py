"""Child processes that a training function leaves behind. Uses only the standard library."""

from __future__ import annotations

import gc
import multiprocessing
import os
from contextlib import suppress
from pathlib import Path

# Processes that Python and torch start once and keep for the whole process.
_KEPT = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "torch/_inductor")
_SECONDS = 5.0  # for a process to end


class LeftProcesses:
    """The child processes that this process has when it is created; those that come later are somebody else's."""

    def __init__(self) -> None:
        self._before = _children()

    def end(self) -> list[str]:
        """End the workers of `multiprocessing` that are left; return a warning for the user if any child is left."""
        if not self._left():
            return []
        gc.collect()  # workers of a DataLoader end with its iterator
        left = self._left()
        for worker in multiprocessing.active_children():
            if worker.pid in left:
                worker.terminate()
                worker.join(_SECONDS)
        if not left:
            return []
        names = ", ".join(f"{name} (process {pid})" for pid, name in left.items())
        still = " those that are still running may slow down later trials" if self._left() else " they were ended"
        return [f"left {len(left)} child process{'es' if len(left) > 1 else ''} running, {names}:{still}"]

    def _left(self) -> dict[int, str]:
        return {pid: name for pid, name in _children().items() if pid not in self._before}


def _children() -> dict[int, str]:
    """The live children of this process by id, with their commands; none where the system does not list them."""
    found: dict[int, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError, ValueError):
            for pid in map(int, listing.read_text(encoding="ascii").split()):
                with suppress(OSError):
                    command = _command(pid)
                    if command and not any(part in command for part in _KEPT):
                        found[pid] = Path(command.split()[0]).name
    return found


def _command(pid: int) -> str:
    """The command line of a process; empty for one that has ended and that nobody has waited for."""
    content = Path(f"/proc/{pid}/cmdline").read_bytes()
    return os.fsdecode(content).replace("\0", " ").strip()
