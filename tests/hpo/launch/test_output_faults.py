"""The table of docs/faults.md about the output folder: what each fault gives, and that the same command goes on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from hpo.tracking.backend import embedded_uri
from hpo.tracking.experiment import StudyExperiment
from tests.helpers.forks import Command, Forks
from tests.helpers.runs import Case, assert_complete, place_database, wait_until
from tests.helpers.tracking import planned, result, trial_runs
from tests.helpers.tracking import write as write_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

TRIALS = 15
IMPATIENT = {"hpo.tracking.delivery.CLOSE_SECONDS": 5.0, "hpo.tracking.delivery.AWAY_SECONDS": 0.5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Case, Forks]]:
    """A study that has come to its end; tests work on copies of its output."""
    case = Case(tmp_path_factory.mktemp("finished"), workers=1)
    case.study(seeds=1)
    forks = Forks(case.folder, case.mark, IMPATIENT)
    assert forks.run("run", "study.yaml").returncode == 0
    yield case, forks
    forks.close()


@pytest.fixture
def output(finished: tuple[Case, Forks], tmp_path: Path) -> Path:
    """A copy of the finished study's output."""
    return Path(shutil.copytree(finished[0].output, tmp_path / "output"))


def assert_one_line(command: Command, *texts: str) -> str:
    """Exit code 2 and one line on stderr, which is returned."""
    assert command.returncode == 2, (command.printed(), command.errors())
    (line,) = command.errors().splitlines()
    assert line.startswith("error: ")
    assert all(text in line for text in texts), line
    return line


def assert_no_traceback(command: Command) -> None:
    assert "Traceback" not in command.printed() + command.errors(), command.errors()[:3000]


@contextmanager
def small_disk(folder: Path, mebibytes: int, mode: str = "rw") -> Iterator[None]:
    """A disk of its own for a folder, in place of what was there."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,{mode}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write a file until its disk takes no more."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Case, Forks]]:
    """A study of its own, that blocks after four trials."""
    case = Case(tmp_path / "case", workers=1)
    case.study(seeds=1)
    forks = Forks(case.folder, case.mark, IMPATIENT)
    yield case, forks
    case.steer()
    forks.close()
    for process in case.processes():
        process.kill()


def blocked(case: Case, forks: Forks) -> Command:
    """The command, once its trials wait, four further on in the study."""
    (case.folder / "blocked").unlink(missing_ok=True)
    case.steer(block=case.starts() + 4)
    command = forks.start("run", "study.yaml")
    wait_until(lambda: (case.folder / "blocked").exists() or command.returncode is not None, 120, "the block")
    assert command.returncode is None, (command.printed(), command.errors())
    return command


def assert_same_command_finishes(case: Case, forks: Forks) -> None:
    case.steer()
    again = forks.run("run", "study.yaml")
    assert again.returncode == 0, (again.printed(), again.errors())
    assert_complete(case.runs(), TRIALS)
    assert (case.results / "weights.json").exists()


class TestDisk:
    def test_a_disk_that_is_full_from_the_start(self, own):
        case, forks = own
        with small_disk(case.output, 1):
            (case.output / "ballast").write_bytes(bytes(600_000))
            command = forks.run("run", "study.yaml")
            assert_one_line(command)
            (case.output / "ballast").unlink()
            assert {path.name for path in case.output.iterdir()} <= {".mlflow.db.lock", "steered"}

    def test_a_disk_that_becomes_read_only_and_later_fills_up(self, own):
        case, forks = own
        with small_disk(case.output, 24):
            place_database(case.output)
            command = blocked(case, forks)
            with small_disk(case.output, 1, "ro"):
                case.steer()
                assert command.wait() in (1, 2), command.printed()
            assert_no_traceback(command)
            command = blocked(case, forks)
            fill(case.output / "ballast")
            case.steer()
            assert command.wait() in (1, 2)
            assert_no_traceback(command)
            (case.output / "ballast").unlink()
            assert_same_command_finishes(case, forks)


class TestDatabase:
    def test_one_that_another_process_has_locked_for_good(self, finished, output):
        case, forks = finished
        del case
        with closing(sqlite3.connect(output / "mlflow.db")) as other:
            other.execute("PRAGMA locking_mode=exclusive")
            other.execute("BEGIN EXCLUSIVE")
            command = forks.run("run", "study.yaml", "--output", str(output))
            assert_one_line(command, "locked")
            other.rollback()
        assert forks.run("run", "study.yaml", "--output", str(output)).returncode == 0

    def test_one_that_is_truncated_is_refused_and_kept(self, finished, output):
        path = output / "mlflow.db"
        with closing(sqlite3.connect(path)) as database:  # so that all of it is in one file
            database.execute("PRAGMA journal_mode=delete")
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        for command in (["run"], ["report"], ["export"]):
            assert_one_line(finished[1].run(*command, "study.yaml", "--output", str(output)), "mlflow.db")
        assert len(path.read_bytes()) == len(whole) // 2
        path.write_bytes(whole)
        assert finished[1].run("report", "study.yaml", "--output", str(output)).returncode == 0

    def test_one_that_was_deleted_between_runs_is_made_again(self, finished, output):
        case, forks = finished
        (output / "mlflow.db").unlink()
        (output / "mlflow.db-wal").write_bytes(b"left behind")
        starts = case.starts()
        again = forks.run("run", "study.yaml", "--output", str(output))
        assert again.returncode == 0, (again.printed(), again.errors())
        assert case.starts() - starts == TRIALS
        assert "creating MLflow's database" in again.printed()


class TestFolder:
    def test_one_that_was_moved_works_in_its_new_place(self, finished, output, tmp_path):
        case, forks = finished
        moved = output.rename(tmp_path / "elsewhere")
        starts = case.starts()
        again = forks.run("run", "study.yaml", "--output", str(moved))
        assert again.returncode == 0, (again.printed(), again.errors())
        assert case.starts() == starts
        store = StudyExperiment(embedded_uri(moved), "steered", moved, create=False)
        runs = trial_runs(store)
        assert len(runs) == TRIALS
        assert all(run.info.artifact_uri.startswith((moved / "artifacts").as_uri()) for run in runs)
        store.records()
        assert store.trajectory(runs[0].data.tags["gradsweep.identity"]) is not None
        original = StudyExperiment(case.uri, "steered", case.output, create=False)
        assert all(run.info.artifact_uri.startswith(case.output.as_uri()) for run in trial_runs(original))

    def test_one_that_was_moved_and_whose_database_cannot_be_written(self, finished, output):
        """Commands that run nothing leave the places as they are; the others say so in a line."""
        _, forks = finished
        with closing(sqlite3.connect(output / "mlflow.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            assert_one_line(forks.run("run", "study.yaml", "--output", str(output)), "locked")
            read = forks.run("report", "study.yaml", "--output", str(output))
            assert_no_traceback(read)
            assert (output / "steered" / "report" / "report.html").exists()
            other.rollback()

    def test_one_that_is_moved_away_in_the_middle(self, own):
        case, forks = own
        command = blocked(case, forks)
        away = case.output.rename(case.folder / "away")
        case.steer()
        assert command.wait() in (0, 1, 2), command.printed()  # an open database goes with its folder
        assert_no_traceback(command)
        if case.output.exists():  # what the command has made in its place
            shutil.rmtree(case.output)
        away.rename(case.output)
        assert_same_command_finishes(case, forks)


class TestStudyFile:
    def test_one_that_can_be_read_only_once(self, finished):
        """Such as a shell's ``<(...)``."""
        case, forks = finished
        pipe = case.folder / "pipe"
        os.mkfifo(pipe)
        command = forks.start("run", "pipe")
        pipe.write_text((case.folder / "study.yaml").read_text())
        assert command.wait() == 0, (command.printed(), command.errors())
        assert "nothing was run" in command.printed()


class TestDuringAStudy:
    def test_a_second_launch_an_edited_study_file_and_a_locked_database_do_no_harm(self, own):
        case, forks = own
        command = blocked(case, forks)
        second = forks.run("run", "study.yaml")
        line = assert_one_line(second)
        assert line == f"error: --output: another launch of study 'steered' is running in {case.results}"
        assert second.printed() == ""
        file = case.folder / "study.yaml"
        text = file.read_text()
        case.study(seeds=1, margin=7.0)
        with closing(sqlite3.connect(case.output / "mlflow.db")) as other:
            other.execute("BEGIN EXCLUSIVE")
            case.steer()
            wait_until(lambda: len(list((case.results / "undelivered").glob("*"))) > 3, 120, "trials that wait")
            other.rollback()
        file.unlink()
        assert command.wait() == 0, (command.printed(), command.errors())
        assert_complete(case.runs(), TRIALS)
        assert "margin: 7" not in (case.results / "report" / "report.md").read_text()
        (launch,) = case.runs("launch")
        kept = case.output / "artifacts" / "steered" / launch.info.run_id / "artifacts" / "study.yaml"
        assert kept.read_text() == text


class TestDataAndClock:
    def test_changed_data_are_reported_and_make_new_trials(self, finished, output):
        case, forks = finished
        starts = case.starts()
        again = forks.run("run", "study.yaml", "--output", str(output), environment={"STEERED_DATA": "other"})
        assert again.returncode == 0, (again.printed(), again.errors())
        assert case.starts() - starts == TRIALS
        assert "data have changed since the last launch: hash steered-4 -> steered-4-other" in again.printed()

    def test_a_clock_that_went_back_does_not_bring_back_earlier_values(self, tmp_path):
        from hpo.tracking.outbox import EndedTrial, Outbox

        store = StudyExperiment(embedded_uri(tmp_path), "clock", tmp_path)
        journal = Outbox(tmp_path / "undelivered")
        write_trial(store, journal, planned(), result("failed", validation=0.5, error="OSError: full"))
        (before,) = trial_runs(store)
        early = before.info.start_time - 3_600_000
        store.write(EndedTrial(planned(), "parent", early, early + 1000, result(validation=0.125)))
        (after,) = trial_runs(store)
        assert after.data.metrics["final_val/depth"] == 0.125
        assert after.info.status == "FINISHED"
