"""Start Ray with a longer timeout, and let signals stop it cleanly. Only this file touches Ray's startup."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import services, utils

START_SECONDS = 120.0  # for a node of this machine to start; Ray's own limit of 30 is too short on a busy machine
LOOK_SECONDS = 0.5
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def start_ray(address: str, seconds: float = START_SECONDS, **options: Any) -> None:
    """Call `ray.init` with a longer timeout for a node of this machine and a clean end on signals.

    Without this, a signal during the start aborts the process or is lost. Here the first signal is noted, ends the
    wait, and is raised once Ray has returned; a second one is raised at once. While connecting to a running cluster
    the first one is raised at once too, because nothing has been started.

    Args:
        address: of a running cluster, or ``"local"``.
        seconds: to wait for a node that is started here.
        **options: of `ray.init`.

    Raises:
        KeyboardInterrupt: a signal came; Ray has been shut down.
        Exception: of many types, raised by `ray.init`.
    """
    came: list[int] = []
    with _noted(came, at_once=address != "local"), _patient(seconds, came):
        try:
            ray.init(address=address, **options)
        except Exception:
            if came:
                raise KeyboardInterrupt from None
            raise
    if came:
        ray.shutdown()
        raise KeyboardInterrupt


@contextmanager
def _noted(came: list[int], at_once: bool) -> Iterator[None]:
    """Note signals without acting on them, and keep Ray from installing its own SIGTERM handler."""

    def note(number: int, _: object) -> None:
        came.append(number)
        if at_once or len(came) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # all signals go to the main thread
        yield
        return
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not None}
    set_handler = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _: None
    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # under nohup
            signal.signal(number, note)
    try:
        yield
    finally:
        utils.set_sigterm_handler = set_handler
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _patient(seconds: float, came: list[int]) -> Iterator[None]:
    """Extend the time for which Ray waits for its own node, which is 30 seconds on every machine."""
    ask: Callable[..., Any] = services.get_node

    def asked(*arguments: Any, **named: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return ask(*arguments, **named)
            except RuntimeError as error:
                if came:
                    raise InterruptedError("a signal came while Ray started") from error
                if time.monotonic() > deadline:
                    raise
            time.sleep(LOOK_SECONDS)

    services.get_node = asked
    try:
        yield
    finally:
        services.get_node = ask
