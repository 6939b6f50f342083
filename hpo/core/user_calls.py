"""The boundary between our code and that which it calls: who raised an exception, and which process returned."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Boundary:
    """Separate exceptions of the user's code from those of our own callbacks.

    Tune ends a worker's thread by raising ``SystemExit`` from the callback that reports. A ``SystemExit`` from the
    user's code is their fault and ends only their trial.

    If the user's code forks and the child returns into our loop, it would train, report and write checkpoints a
    second time. `end_fork` ends that child. Workers of a DataLoader and subprocesses never return into the loop.
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
        """End this process if it is a child that the user's code forked. Call it after each call to that code."""
        if os.getpid() != self._process:
            os._exit(0)  # skip the exit handlers, which belong to the parent

    def pass_on(self, error: BaseException) -> None:
        """Raise an exception again unless the user's code raised it.

        A framework may have put one of its own in place: Lightning answers a Ctrl-C with ``SystemExit``.

        Raises:
            BaseException: raised by a callback, or a Ctrl-C, which reaches only the main thread.
        """
        self.end_fork()
        for one in _handled(error):
            if one is self._raised or is_interrupt(one):
                raise one


def _handled(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and those during whose handling it was raised."""
    seen: set[int] = set()  # ids, since comparing is the user's code too
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__context__


def raise_interrupt(error: BaseException) -> None:
    """Raise the Ctrl-C during whose handling an exception was raised; return if there was none.

    A library that tidies up after an interrupt may fail at that, and its error then takes the place of the interrupt.

    Raises:
        KeyboardInterrupt: the command was interrupted.
    """
    for one in _handled(error):
        if is_interrupt(one):
            raise one


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception is a Ctrl-C at the keyboard rather than a fault of the user's code."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
