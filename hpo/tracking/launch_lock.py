"""One launch of a study at a time, across folders and machines, by the heartbeats that a launch sends to MLflow."""

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

WATCH_SECONDS = 2.5 * BEAT_SECONDS  # without a heartbeat, after which a launch is dead


def refuse_other_launch(store: StudyExperiment, console: Console, own: str | None = None) -> list[str]:
    """Refuse to run beside a launch in another folder or on another machine, which the file lock cannot detect.

    A driver that was killed leaves its launch open. On this machine the process list shows whether it is alive; a
    launch on another machine is watched for heartbeats for a while.

    Args:
        store: the study's experiment.
        console: for the user.
        own: this launch, once it is open; only launches before it count.

    Returns:
        The launches that are open but dead.

    Raises:
        OutputError: such a launch is alive.
    """
    launches = sorted(store.open_launches(), key=lambda launch: (launch.started, launch.run_id))
    ours = next((i for i, launch in enumerate(launches) if launch.run_id == own), len(launches))
    for launch in launches[:ours]:  # of two that start at once, the later one stops
        if launch.host == socket.gethostname() and not _runs(launch.pid):
            lives = False  # no wait is needed; a restarted container may have the same process number as before
        else:
            console.print(
                f"A launch of study {store.study!r} on {launch.host} has not ended; watching it for heartbeats "
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
    """Return whether a process exists, whoever owns it."""
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
