"""Start the command in milliseconds: a process that has imported everything forks one for each command.

The commands are processes as real as those that a shell starts (their own pid, files and signals); what they save is
the import of torch, pandas and MLflow, which takes seconds, so that a command can be killed many times.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.runs import MARK, wait_until


@dataclass
class Command:
    """A command that was started.

    Attributes:
        pid: of its process, which leads a process group of its own.
        out, err: files with what it has printed.
        code: file that holds its exit code once it has ended; negative of a signal.
    """

    pid: int
    out: Path
    err: Path
    code: Path

    @property
    def returncode(self) -> int | None:
        """The exit code; ``None`` if it runs."""
        text = self.code.read_text() if self.code.exists() else ""
        return int(text) if text.endswith("\n") else None

    def printed(self) -> str:
        """The output so far."""
        return self.out.read_text() if self.out.exists() else ""

    def errors(self) -> str:
        """The output on stderr so far."""
        return self.err.read_text() if self.err.exists() else ""

    def send(self, number: int) -> None:
        """A signal to this process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; back when it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 240.0) -> int:
        """Its exit code."""
        wait_until(lambda: self.returncode is not None, seconds, f"the end of a command: {self.printed()}")
        assert self.returncode is not None
        return self.returncode


class Forks:
    """Forks commands in a folder.

    Args:
        folder: where they run.
        mark: see `tests.helpers.runs.MARK`.
        constants: by dotted name other values for constants of the program, such as seconds of patience.
    """

    def __init__(self, folder: Path, mark: str, constants: Mapping[str, float] | None = None) -> None:
        self.folder, self._count = folder, 0
        self._constants = dict(constants or {})
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "RAY_", "TUNE_"))}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.forks"],
            env={**kept, MARK: mark, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> Command:
        """Start ``gradsweep`` with arguments."""
        self._count += 1
        files = {name: str(self.folder / f".command-{self._count}.{name}") for name in ("out", "err", "code")}
        order = {
            "arguments": arguments,
            "folder": str(self.folder),
            "environment": environment or {},
            "constants": self._constants,
            **files,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        return Command(pid, *(Path(files[name]) for name in ("out", "err", "code")))

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> Command:
        """Run ``gradsweep`` to its end."""
        command = self.start(*arguments, environment=environment)
        command.wait()
        return command

    def close(self) -> None:
        """End the process that forks; commands go on."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


def _serve() -> None:
    """Fork for each line on stdin; a child of its own waits for the command, and writes its exit code."""
    import hpo.cli.app
    import hpo.launch.run  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(order)
    os._exit(0)


def _watch(order: dict[str, Any]) -> None:
    pid = os.fork()
    if pid == 0:
        _become(order)
    print(pid, flush=True)
    _, status = os.waitpid(pid, 0)
    Path(order["code"]).write_text(f"{os.waitstatus_to_exitcode(status)}\n")
    os._exit(0)


def _become(order: dict[str, Any]) -> None:
    """Be the command."""
    import hpo.cli.app

    os.setpgid(0, 0)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    for name, value in order["constants"].items():
        module, _, constant = name.rpartition(".")
        assert hasattr(importlib.import_module(module), constant), name
        setattr(sys.modules[module], constant, value)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["gradsweep", *order["arguments"]]
    code = 1
    try:
        hpo.cli.app.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
