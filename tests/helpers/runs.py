"""Helpers of the end-to-end tests: a study in its own folder, the command, and the runs in MLflow."""

from __future__ import annotations

import atexit
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from rich.console import Console

from hpo.cli import app as cli
from hpo.launch.conclude import Finished
from hpo.launch.run import run_study
from hpo.launch.workspace import place
from hpo.tracking.backend import embedded_uri
from tests.helpers.plans import around_equal

COMMAND = str(Path(sys.executable).parent / "gradsweep")
MARK = "GRADSWEEP_TEST_MARK"  # in the environment of a command and of all that it starts
TRIALS = 23  # of `Case.study` with two seeds


def wait_until(condition: Callable[[], Any], seconds: float = 240.0, what: str = "") -> Any:
    """Poll; the first true value, or an AssertionError after so long that no busy machine explains it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what or condition}"
        time.sleep(0.05)
    return found


@cache
def migrated() -> Path:
    """An SQLite database as MLflow makes it, without a study."""
    path = Path(tempfile.mkdtemp(prefix="gradsweep-tests-")) / "mlflow.db"
    atexit.register(shutil.rmtree, path.parent)
    MlflowClient(f"sqlite:///{path}").get_experiment_by_name("any")
    return path


def place_database(folder: Path) -> str:
    """Lay a migrated database where gradsweep keeps its own, unless one is there, and name its URI.

    A copy takes milliseconds, MLflow's migrations of a new database seconds of CPU. That gradsweep makes one itself
    is tested by `test_run.py`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mlflow.db"
    if not path.exists():
        shutil.copy(migrated(), path)
    return embedded_uri(folder)


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """This process's files break off at so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)  # else what is imported now may leave half of its bytecode
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@dataclass
class Case:
    """A study of `helpers.problems.Steered` in a folder of its own, beside a database that is there already.

    Args:
        folder: of the study.
        name: of the study.
        database: whether there is one; without, the first launch makes it.
        workers: how many of Ray's workers train here, each of which takes seconds of CPU to start; ``None``: one per
            core, as without ``resources`` in a study.
    """

    folder: Path
    name: str = "steered"
    database: bool = True
    workers: int | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mark = uuid4().hex

    def study(self, **changes: Any) -> Path:
        """Write the study file: 23 trials with two seeds, 15 with one."""
        if self.database:
            place_database(self.output)
        content: dict[str, Any] = {
            "name": self.name,
            "problem": {"name": "tests.helpers.problems:Steered", "folder": str(self.folder)},
            "seeds": 2,
            "references": ["single_task", "equal"],
            "shortlist": "off",
            "static": {"points": 3},
            "gradnorm": {"recipes": ["robust"], "trials": 2},
            "confirm": {"top_static": 1, "averages": ["tail"]},
            "cohort": 1,  # a start is a trial; tests/hpo/launch/test_cohort_runs.py has other cohorts
        }
        if self.workers is not None:
            content["resources"] = {"cpu": (os.cpu_count() or 1) / self.workers}
        path = self.folder / "study.yaml"
        content |= changes
        path.write_text(yaml.safe_dump(content | {"static": around_equal(content["static"])}))
        return path

    def steer(self, **what: Any) -> None:
        """See `Steered`."""
        new = self.folder / "steer.new"
        new.write_text(json.dumps(what))
        new.replace(self.folder / "steer.json")

    def starts(self) -> int:
        """The number of training runs that were started."""
        path = self.folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def output(self) -> Path:
        return self.folder / "gradsweep-output"

    @property
    def results(self) -> Path:
        """Report, weights file, Optuna's journal."""
        return self.output / self.name

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.output / 'mlflow.db'}"

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None, before: Sequence[str] = (), **more: Any
    ) -> subprocess.Popen[str]:
        """Start the command in the folder, where it finds the study as ``study.yaml``."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "RAY_", "TUNE_"))}
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | more
        environment = {**kept, MARK: self.mark, **(environment or {})}
        return subprocess.Popen([*before, COMMAND, *arguments], cwd=self.folder, env=environment, **more)

    def command(self, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, uri: str | None = None, address: str | None = None) -> tuple[Finished, str]:
        """Run the study in this process: how it ended and what it printed."""
        console = Console(file=StringIO(), width=200)
        where = place(self.output, uri)
        finished = run_study(self.folder / "study.yaml", where, address, console)
        return finished, console.file.getvalue()  # type: ignore[attr-defined]

    def runs(self, kind: str = "trial", uri: str | None = None) -> list[Run]:
        """Return the study's ``trial`` or ``launch`` runs in MLflow."""
        client = MlflowClient(uri or self.uri)
        experiment = client.get_experiment_by_name(self.name)
        return list(
            client.search_runs(
                [experiment.experiment_id],
                f"tags.`gradsweep.kind` = '{kind}'",
                order_by=["attributes.start_time ASC"],
            )
        )

    def processes(self) -> list[psutil.Process]:
        """Return the processes that the command has started and that are alive, in any process group."""
        return [process for process in psutil.process_iter() if marked(process) == self.mark]


def marked(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK)
    except psutil.Error:
        return None


def main(captured: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command in this process: its exit code and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gradsweep", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return (ended.value.code or 0, *captured.readouterr())


def assert_only_stages(printed: str) -> None:
    """The command has said what it is doing, and nothing else."""
    assert all(re.fullmatch(r"gradsweep \S+: .*|.* \.\.\.", line) for line in printed.splitlines()), printed


def assert_quiet(printed: str) -> None:
    """Check that a text has no output of Ray, MLflow or Optuna."""
    assert not re.search(r"\x1b|\r|INFO|WARN|Ray Tune|ray\.|Registry|alembic|trainable|View run|━", printed)


def assert_complete(runs: list[Run], trials: int = TRIALS) -> None:
    """Every trial once, all of them finished."""
    identities = [run.data.tags["gradsweep.identity"] for run in runs]
    assert len(set(identities)) == len(identities) == trials
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["gradsweep.status"] for run in runs} == {"finished"}
