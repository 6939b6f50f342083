"""One launch of a study at a time, whatever its folder or machine: by the signs of life that it leaves in MLflow."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime

from rich.console import Console

from hpo.core.errors import OutputError
from hpo.tracking.delivery import BEAT_SECONDS
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.launch_runs import OpenLaunch

WATCH_SECONDS = 2.5 * BEAT_SECONDS  # without a sign of life, and a launch is dead


def refuse_other_launch(store: StudyExperiment, console: Console, own: str | None = None) -> list[str]:
    """Refuse to run beside a launch with another folder or on another machine, which the lock does not know.

    A driver that was killed leaves its launch open. On this machine its process tells whether it lives; of another
    machine's, its signs of life are watched for a while.

    Args:
        store: the study's experiment.
        console: for the user.
        own: the launch that asks, once it is open: only those before it count.

    Returns:
        The launches that are open and dead.

    Raises:
        OutputError: such a launch lives.
    """
    launches = sorted(store.open_launches(), key=lambda launch: (launch.started, launch.run_id))
    ours = next((i for i, launch in enumerate(launches) if launch.run_id == own), len(launches))
    for launch in launches[:ours]:  # of two that start at once, the later gives way
        if launch.host == socket.gethostname() and not _runs(launch.pid):
            lives = False  # as soon as it was killed; a container that restarts may meet its own number again
        else:
            console.print(
                f"A launch of study {store.study!r} on {launch.host} has not ended; watching it for signs of life "
                f"for {WATCH_SECONDS:.0f} s",
                highlight=False,
                soft_wrap=True,
            )
            lives = _beats(store, launch)
        if lives:
            since = datetime.fromtimestamp(launch.started / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
            raise OutputError(
                f"--tracking-uri: another launch of study {store.study!r} is running on {launch.host} "
                f"(process {launch.pid}, since {since}); wait for its end, or stop it"
            )
    return [launch.run_id for launch in launches[:ours]]


def _runs(pid: int) -> bool:
    """Whether there is such a process, whoever owns it."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _beats(store: StudyExperiment, launch: OpenLaunch) -> bool:
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        now = next((other for other in store.open_launches() if other.run_id == launch.run_id), None)
        if now is None:
            return False
        if now.alive != launch.alive:
            return True
    return False
