"""Studies that are stopped or killed, or whose trials fail, and the result of the same command afterwards."""

import os
import pty
import re
import subprocess
from contextlib import suppress
from threading import Thread

import numpy as np
import pandas as pd
import pytest
import torch

from balancers import Static
from hpo.compare import compare
from hpo.core.errors import OutputError
from hpo.launch.restore import open_plan
from hpo.launch.weights_export import weights_content
from hpo.problems import load_problem
from hpo.study.schedule import Next, Schedule
from hpo.training.trial import run_trial
from tests.helpers.runs import TRIALS, Case, assert_complete, main, wait_until

pytestmark = pytest.mark.slow

WORKERS = 1  # so many trials are in flight when a study stops
STOPPED = "Stopped. Finished trials are kept; the same command continues the study."


@pytest.fixture(scope="class")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A study that the tests of a class disturb one after the other."""
    case = Case(tmp_path_factory.mktemp("disturbed"), workers=WORKERS)
    case.study()
    return case


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, dict[str, float]]:
    """The arms of the same study and the weights it recommends, trained one trial after the other without Ray."""
    case = Case(tmp_path_factory.mktemp("undisturbed"), database=False)
    plan = open_plan(case.study())
    problem = load_problem(plan.study.problem.name, plan.study.problem.arguments)
    schedule = Schedule(plan)
    while not isinstance(planned := schedule.next(), Next):
        result = run_trial(planned.config, problem, lambda report: None, torch.device("cpu"))
        schedule.finished(planned.config.identity, result)
    comparison = compare(schedule.table(), plan.scoring, plan.study.margin)
    return comparison.arms, weights_content(plan, comparison, None, {})["weights"]


def assert_same(case: Case, undisturbed: tuple[pd.DataFrame, dict[str, float]]) -> None:
    """Whatever happened on the way, the end is the same."""
    arms, weights = undisturbed
    found = pd.read_csv(case.results / "report" / "arms.csv")
    assert list(found["arm"]) == list(arms["arm"])
    numbers = [column for column in found if column in arms and pd.api.types.is_numeric_dtype(arms[column])]
    numbers.remove("seconds")
    assert len(numbers) > 12
    np.testing.assert_allclose(found[numbers].astype(float), arms[numbers].astype(float), rtol=1e-5, atol=1e-5)
    assert Static.load(case.results / "weights.json").weights.tolist() == pytest.approx(list(weights.values()))


def blocked(case: Case, process: subprocess.Popen[str], ended: int) -> bool:
    """Return whether a trial per worker waits for the end of the block, and MLflow has the earlier ones."""
    assert process.poll() is None, process.communicate()
    if not (case.folder / "blocked").exists() or len((case.folder / "blocked").read_text().split()) < WORKERS:
        return False
    return sum(run.info.status == "FINISHED" for run in case.runs()) >= ended


class Terminal:
    """A terminal with a command that controls it; what is shown is read all the time, as a terminal does."""

    def __init__(self, case: Case, *arguments: str) -> None:
        self.keys, slave = pty.openpty()
        command = ["setsid", "--ctty", "--wait", "sh", "-c", 'exec "$@"', "sh"]
        self.process = case.start(*arguments, before=command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self._shown: list[bytes] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with suppress(OSError):  # the last process that had the terminal has ended
            while True:
                self._shown.append(os.read(self.keys, 65536))

    def shown(self) -> str:
        """All that was shown, without its colours and movements, once the command has ended."""
        self._reader.join(20)
        return self.so_far()

    def so_far(self) -> str:
        """The same while the command runs."""
        return re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", b"".join(self._shown).decode(errors="replace"))


class TestInterrupted:
    """One study, stopped by Ctrl-C, by SIGTERM and by kill -9; then it runs to its end."""

    @staticmethod
    def block(case: Case, after: int) -> None:
        (case.folder / "blocked").unlink(missing_ok=True)
        case.steer(block=after)

    def test_ctrl_c_on_a_terminal(self, case):
        self.block(case, after=4)
        terminal = Terminal(case, "run", "study.yaml")
        wait_until(lambda: blocked(case, terminal.process, 4), what="the block")
        running = rf"all .* 4/23 +{WORKERS} running"
        wait_until(lambda: re.search(running, terminal.so_far()), what="the table of the block")
        os.write(terminal.keys, b"\x03")
        assert terminal.process.wait(240) == 130
        shown = terminal.shown()
        assert shown.rstrip().endswith(STOPPED)
        assert re.search(r"references .* 2/2", shown)
        assert re.search(running, shown)
        assert not re.search("Traceback|Tune|SIGINT|WARN", shown)
        self.assert_stopped(case, launches=1)

    def test_sigterm(self, case):
        self.block(case, after=case.starts() + 4)
        process = case.start("run", "study.yaml")
        wait_until(lambda: blocked(case, process, 8), what="the block")
        process.terminate()
        out, err = process.communicate(timeout=240)
        assert (process.returncode, err) == (130, "")
        assert out.rstrip().endswith(STOPPED)
        self.assert_stopped(case, launches=2)

    def test_kill_of_the_driver_and_a_second_launch_beside_it(self, case, capsys, monkeypatch):
        self.block(case, after=case.starts() + 4)
        process = case.start("run", "study.yaml")
        wait_until(lambda: blocked(case, process, 12), what="the block")
        monkeypatch.chdir(case.folder)
        code, out, err = main(capsys, "run", "study.yaml")
        assert (code, out) == (2, "")
        assert err == f"error: --output: another launch of study 'steered' is running in {case.results}\n"
        states = {"FINISHED", "RUNNING"}
        wait_until(lambda: {run.info.status for run in case.runs()} == states, what="the runs of the blocked trials")
        process.kill()
        process.communicate(timeout=240)
        assert {run.info.status for run in case.runs()} == states

    def test_the_same_command_finishes(self, case, undisturbed):
        case.steer()
        finished, printed = case.run()  # beside what Ray may still have running of the killed one
        assert (finished.complete, finished.failed, finished.faults) == (True, {}, []), printed
        assert finished.ran == TRIALS - 3 * 4
        assert_complete(case.runs())
        assert case.starts() == TRIALS + 3 * WORKERS
        launches = case.runs("launch")
        assert [run.info.status for run in launches] == ["KILLED", "KILLED", "KILLED", "FINISHED"]
        assert [run.data.tags["gradsweep.status"] for run in launches] == [*["interrupted"] * 3, "finished"]
        assert_same(case, undisturbed)
        wait_until(lambda: not case.processes(), what="the killed driver's Ray to end")

    @staticmethod
    def assert_stopped(case: Case, launches: int) -> None:
        wait_until(lambda: not case.processes(), what="Ray to end")
        runs = case.runs()
        states = [(run.info.status, run.data.tags["gradsweep.status"]) for run in runs]
        assert states.count(("FINISHED", "finished")) == 4 * launches
        assert states.count(("KILLED", "interrupted")) == len(runs) - 4 * launches
        assert len({run.data.tags["gradsweep.identity"] for run in runs}) == len(runs)
        parents = case.runs("launch")
        assert [run.info.status for run in parents] == ["KILLED"] * launches
        assert (case.results / "report" / "report.html").exists()


class TestDiverged:
    """Trials whose numbers are not finite; what else may go wrong is in test_faults.py."""

    def test_a_diverged_trial_is_a_result_and_an_unwritable_report_is_an_error(self, tmp_path):
        case = Case(tmp_path, workers=1)
        case.study(seeds=1)
        case.steer(nan=[4])
        case.results.mkdir(parents=True)
        (case.results / "report").touch()
        with pytest.raises(OutputError, match=r"/steered/report\S* cannot be written: "):
            case.run()
        assert_closed(case, "FAILED", "failed")

        (case.results / "report").unlink()
        finished, printed = case.run()
        assert (finished.complete, finished.ran, finished.failed) == (True, 0, {})
        assert "starting Ray" not in printed
        assert "diverged" in finished.comparison.alarms[0]
        assert finished.comparison.recommended
        (run,) = (run for run in case.runs() if run.data.tags["gradsweep.status"] == "diverged")
        assert run.info.status == "FINISHED"
        assert run.data.tags["gradsweep.error"] == "the training loss is not finite after 4 steps: near = nan"

    def test_where_all_diverge_there_is_no_verdict(self, tmp_path, capsys, monkeypatch):
        case = Case(tmp_path, workers=1)
        case.study(seeds=1)
        case.steer(nan_all=True)
        monkeypatch.chdir(case.folder)
        code, out, err = main(capsys, "run", "study.yaml")
        assert (code, err) == (1, "")
        diverged = re.findall(r"^diverged: .* is not finite after \d steps: ", out, re.MULTILINE)
        assert len(diverged) == case.starts() - 2  # single_task/far off, twice, does not train the task that is NaN
        named = out.partition(f"{len(diverged)} trials diverged, which is a result: nothing runs again\n")[
            2
        ].splitlines()
        assert len(named) == len(diverged)
        assert all(re.match(r"  \S+ seed \d: .* is not finite after \d steps: ", line) for line in named)
        assert "There is no verdict: " in out
        assert "Weights" not in out
        assert not (case.results / "weights.json").exists()
        assert (case.results / "report" / "report.html").exists()
        assert_closed(case, "FINISHED", "finished")
        code, out, err = main(capsys, "export", "study.yaml")
        assert (code, out) == (2, "")
        assert re.fullmatch(r"error: no arm with fixed weights [^\n]+\n", err)


def assert_closed(case: Case, status: str, tag: str) -> None:
    (parent,) = case.runs("launch")
    assert (parent.info.status, parent.data.tags["gradsweep.status"]) == (status, tag)
