"""The boundary between our loops and the user's code: whose exception it is, and which process came back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Boundary:
    """Separates what the user's code does from what our own callbacks do.

    Tune ends a worker's thread by a ``SystemExit`` out of the callback that reports. One from the user's code is a
    fault of theirs, which ends their trial and nothing else.

    A process that the user's code has forked, and whose child comes back into our loop, would train, report and write
    checkpoints a second time. `end_fork` ends such a child. Workers of a DataLoader and subprocesses never come back.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._raised: BaseException | None = None

    def tell(self, call: Callable[P, R], *arguments: P.args, **more: P.kwargs) -> R:
        """Call one of our callbacks."""
        self.end_fork()
        try:
            return call(*arguments, **more)
        except BaseException as error:
            self._raised = error
            raise

    def end_fork(self) -> None:
        """End this process if it is a child that the user's code has forked. To be called after each call to it."""
        if os.getpid() != self._process:
            os._exit(0)  # without the exit handlers, which are those of the parent

    def pass_on(self, error: BaseException) -> None:
        """Raise an exception again unless it is the user's code's.

        Raises:
            BaseException: what a callback raised, or a Ctrl-C, which reaches the main thread alone.
        """
        self.end_fork()
        if error is self._raised or is_interrupt(error):
            raise error


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is a Ctrl-C of who runs the program, rather than a fault of the user's code."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
