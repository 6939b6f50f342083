"""One launch of a study at a time, whatever folder or machine the other one has."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import hpo.tracking.launch_lock
from hpo.core.errors import OutputError
from hpo.launch.output_lock import locked
from hpo.tracking.backend import embedded_uri
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.launch_lock import refuse_other_launch
from tests.helpers.runs import place_database


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    place_database(folder)
    return folder


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest) -> StudyExperiment:
    return StudyExperiment(embedded_uri(folder), request.node.name, folder)


def launched(store: StudyExperiment, **tags: str) -> str:
    launch = store.start_launch("name: x")
    for name, value in tags.items():
        store.client.set_tag(launch, f"gradsweep.{name}", value)
    return launch


def checked(store: StudyExperiment) -> str:
    """Return the output of the check if it allows the launch."""
    console = Console(file=StringIO(), width=200)
    refuse_other_launch(store, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


@contextmanager
def beating(store: StudyExperiment, launch: str) -> Iterator[None]:
    """A driver elsewhere that sends heartbeats."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.2):
            store.beat(launch)

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_the_folder_of_a_study_is_locked_while_a_launch_has_it(tmp_path):
    with (
        locked(tmp_path / "study"),
        pytest.raises(OutputError, match="another launch of study 'study' is running in "),
        locked(tmp_path / "study"),
    ):
        pass
    with locked(tmp_path / "study"):
        pass


def test_a_dead_driver_on_this_machine_does_not_block_a_launch(store):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    launched(store, pid=done.stdout.strip())
    assert checked(store) == ""


@pytest.mark.parametrize("where", [{}, {"host": "another-machine", "pid": "1"}])
def test_a_launch_with_heartbeats_stops_the_second(store, where):
    launch = launched(store, **where)
    with beating(store, launch), pytest.raises(OutputError) as refused:
        checked(store)
    host = where.get("host", os.uname().nodename)
    pid = where.get("pid", str(os.getpid()))
    assert re.fullmatch(
        rf"--tracking-uri: another launch of study '.*' is running on {host} \(process {pid}, since [^)]* UTC\); "
        "wait for its end, or stop it",
        str(refused.value),
    )


def test_a_launch_elsewhere_without_heartbeats_is_dead(store, monkeypatch):
    monkeypatch.setattr(hpo.tracking.launch_lock, "WATCH_SECONDS", 2.0)
    launched(store, host="another-machine")
    assert checked(store).startswith(f"A launch of study {store.study!r} on another-machine has not ended; watching ")


def test_of_two_launches_that_start_at_once_the_later_one_stops(store):
    first, second = launched(store, host="another-machine"), launched(store)
    refuse_other_launch(store, Console(file=StringIO()), first)
    with beating(store, first), pytest.raises(OutputError, match="is running on another-machine"):
        refuse_other_launch(store, Console(file=StringIO()), second)


def test_a_launch_that_has_ended_does_not_block_another(store):
    store.end_launch(launched(store, host="another-machine"), "FINISHED")
    assert checked(store) == ""
