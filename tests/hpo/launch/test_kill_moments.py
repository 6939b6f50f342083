"""The command killed at moments of its start, of a resumed launch, and of report and export: nothing is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from balancers import Static
from hpo.tracking.database import SCRATCH
from tests.helpers.forks import Command, Forks
from tests.helpers.runs import Case, assert_complete, wait_until
from tests.helpers.undisturbed import Undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WHOLE = 950_000  # bytes of a new database, about
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
ENDS = (-signal.SIGKILL, -signal.SIGTERM, 130)


@pytest.fixture(scope="class")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    case = Case(tmp_path_factory.mktemp("killed"), database=False, workers=1)
    yield case
    for process in case.processes():
        process.kill()


@pytest.fixture(scope="class")
def forks(case: Case) -> Iterator[Forks]:
    found = Forks(case.folder, case.mark)
    yield found
    found.close()


def size_of_what_is_made(output: Path) -> int:
    """Bytes of a database that is being made."""
    sizes = [0]
    for path in output.glob(f"{SCRATCH}*/*.db"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # renamed or removed this moment
            continue
    return max(sizes)


def moments(case: Case) -> list[Callable[[Command], object]]:
    """Twenty moments of a first launch, in their order; every third of them unless `make chaos` asks for all."""
    database = case.output / "mlflow.db"

    def growing(size: int) -> Callable[[Command], object]:
        return lambda command: size_of_what_is_made(case.output) > size or database.exists()

    def printed(text: str) -> Callable[[Command], object]:
        return lambda command: text in command.printed()

    making = [growing(round(share * WHOLE)) for share in (0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)]
    opening = [lambda command: database.exists()] * 2
    later = [printed("starting Ray"), printed("node(s), "), printed(" running")]
    found = [printed("preparing data"), *making, *opening, *later, *later[1:]]
    assert len(found) == 20
    return found if "GRADSWEEP_CHAOS_KILLS" in os.environ else found[1::3]


class TestFirstLaunch:
    def test_killed_at_many_moments_the_same_command_finishes(self, case, forks):
        case.study()
        case.steer(block=0)  # no trial comes to its end: else the last command would have nothing to run
        chosen = moments(case)
        for moment, number in zip(chosen, cycle(SIGNALS), strict=False):
            command = forks.start("run", "study.yaml")
            wait_until(lambda moment=moment, c=command: moment(c) or c.returncode is not None, 120, "a moment")
            assert command.returncode is None, (command.printed(), command.errors())
            command.send(number)
            assert command.wait() in ENDS, (command.printed(), command.errors())
            assert "Traceback" not in command.errors()
            assert "error" not in command.errors()
        case.steer()
        last = forks.run("run", "study.yaml")
        assert last.returncode == 0, (last.printed(), last.errors())
        assert_complete(case.runs())
        assert {run.info.status for run in case.runs("launch")} <= {"KILLED", "FINISHED"}
        assert not list(case.output.glob(f"{SCRATCH}*"))


def killed_at(case: Case, forks: Forks, undisturbed: Undisturbed, shares: Sequence[float]) -> None:
    """Kill driver and trials after these shares of all steps: the same command ends as if nothing had happened."""
    case.steer(seconds=0.05)
    steps = case.folder / "steps"
    least = 16 * len(undisturbed.trials)

    def trained() -> int:
        return steps.stat().st_size if steps.exists() else 0

    for share in shares:
        command = forks.start("run", "study.yaml")
        wait_until(lambda share=share, c=command: trained() > share * least or c.returncode is not None, 240, "steps")
        assert command.returncode is None, (command.printed(), command.errors())
        command.kill()
        for process in case.processes():  # its Ray: else workers of a dead driver train on for some seconds
            if process.name().startswith("ray::"):
                process.kill()
    case.steer(seconds=0.0)
    last = forks.run("run", "study.yaml")
    assert last.returncode == 0, (last.printed(), last.errors())
    runs = case.runs()
    undisturbed.assert_same(runs, MlflowClient(case.uri))
    resumed = [run for run in runs if json.loads(run.data.tags["gradsweep.resumed"])]
    assert len(resumed) >= 2, "trials that were taken up from checkpoints"
    weights = json.loads((case.results / "weights.json").read_text())
    assert weights["weights"] == undisturbed.weights["weights"]


@pytest.fixture(scope="class")
def undisturbed(case: Case) -> Undisturbed:
    """A study with a checkpoint after each step, and how it goes when nothing is killed."""
    case.study(
        problem={"name": "tests.helpers.problems:Counted", "folder": str(case.folder)},
        seeds=1,
        checkpoint_seconds=0,
    )
    case.steer(seconds=0.0)
    return Undisturbed(case)


class TestResumedLaunch:
    """A study whose driver and trials are killed again and again."""

    def test_trials_continue_from_checkpoints_and_end_bit_for_bit_the_same(self, case, forks, undisturbed):
        killed_at(case, forks, undisturbed, (0.2, 0.6))

    def test_killed_reports_and_exports_leave_complete_files(self, case, forks, undisturbed):
        del undisturbed
        report, weights = case.folder / "drawn" / "report", case.folder / "drawn.json"
        for count in (0, 1, 2, 3, 4, 5):
            command = forks.start("report", "study.yaml", "-o", "drawn")
            wait_until(
                lambda n=count, c=command: len(whole(report)) >= n or c.returncode is not None, 60, "a report's files"
            )
            if command.returncode is None:
                command.kill()
            for path in whole(report):
                assert_whole(path)
        for _ in range(4):
            command = forks.start("export", "study.yaml", "-o", "drawn.json")
            wait_until(lambda c=command: busy(c) or c.returncode is not None, 60, "the export")
            if command.returncode is None:
                command.kill()
            if weights.exists():
                Static.load(weights)
        assert forks.run("report", "study.yaml", "-o", "drawn").returncode == 0
        assert forks.run("export", "study.yaml", "-o", "drawn.json").returncode == 0
        assert {path.name for path in whole(report)} >= {"report.html", "report.md", "comparison.json"}
        for path in whole(report):
            assert_whole(path)
        assert Static.load(weights).weights.tolist()
        assert {run.info.status for run in case.runs()} == {"FINISHED"}


def whole(folder: Path) -> list[Path]:
    """The files under their own names."""
    return [path for path in folder.glob("*") if not path.name.startswith(".")] if folder.is_dir() else []


def busy(command: Command) -> bool:
    """Return whether a command has used some hundredths of a second of CPU, and so is in the middle of its work."""
    try:
        return psutil.Process(command.pid).cpu_times().user > 0.05
    except psutil.NoSuchProcess:
        return False


def assert_whole(path: Path) -> None:
    text = path.read_text()
    assert text.endswith("\n") or text.endswith("</html>")
    if path.suffix == ".json":
        json.loads(text)
    if path.suffix == ".html":
        assert "</html>" in text


@pytest.mark.chaos
@pytest.mark.timeout(1800)
class TestFewRuns:
    """A study whose driver and trials are killed in references, shortlist, race, refinement and confirm phase."""

    def test_the_answer_is_that_of_an_undisturbed_run(self, case, forks):
        off = {"static": {"points": 2}, "gradnorm": "off", "confirm": {"top_static": 1}}
        case.study(
            problem={"name": "tests.helpers.problems:Counted", "folder": str(case.folder)},
            seeds=1,
            checkpoint_seconds=0,
            shortlist={"alphas": [0.5], "averages": ["tail"]},
            refine={"trials": 4, "sampler": "gp"},
            **off,
        )
        case.steer(seconds=0.0)
        undisturbed = Undisturbed(case)
        phases = [planned.phase for planned, _, _ in undisturbed.trials.values()]
        assert {"references", "shortlist", "refine", "confirm"} <= set(phases)
        killed_at(case, forks, undisturbed, (0.05, 0.25, 0.45, 0.65, 0.85))
