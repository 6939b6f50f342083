"""A study from the command to its verdict, as a user sees it."""

import json
import math
import re
import signal
import socket
import subprocess
from io import StringIO
from pathlib import Path
from urllib.request import Request, urlopen

import pandas as pd
import pytest
import ray
from mlflow import MlflowClient

from balancers import Static
from hpo.core.trial import EpochReport, TrialResult
from hpo.launch.console import Console
from hpo.launch.progress import ProgressView, stage
from hpo.launch.restore import open_plan
from hpo.study.schedule import Schedule
from tests.helpers.runs import TRIALS, Case, assert_complete, assert_quiet, main, wait_until

TASKS = ["near", "far off"]
FILES = ["arms.csv", "comparison.json", "report.html", "report.md", "trials.csv"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, subprocess.CompletedProcess[str]]:
    """A study that was run once by the command, with what it printed."""
    case = Case(tmp_path_factory.mktemp("finished"), database=False)
    case.study()
    return case, case.command("run", "study.yaml")


@pytest.fixture(scope="module")
def case(finished) -> Case:
    return finished[0]


def verdict(text: str) -> str:
    """The answers that stand before the table of arms."""
    return re.search(r"^Which weights should I train with\?.*?^Score: ", text, re.DOTALL | re.MULTILINE).group(0)


@pytest.mark.slow
class TestCommand:
    def test_ends_with_the_verdict_the_arms_and_the_places(self, finished):
        _, done = finished
        assert done.returncode == 0, done.stderr
        words = " ".join(done.stdout.split())
        for answer in ("? Train with ", "Was the grid search worth it? ", "What did it cost? All alpha sweeps took "):
            assert answer in words
        for arm in ("equal", "static/0", "frozen/loss", "gradnorm/robust/alpha=", "gradnorm_static/robust/tail"):
            assert f" {arm}" in words
        assert re.search(r"^Report +\S+/gradsweep-output/steered/report/report.html$", done.stdout, re.MULTILINE)
        assert re.search(r"^Weights +\S+/gradsweep-output/steered/weights.json$", done.stdout, re.MULTILINE)
        assert re.search(r"^MLflow UI +gradsweep ui$", done.stdout, re.MULTILINE)

    def test_prints_nothing_of_its_engines_and_no_bars_on_a_pipe(self, finished):
        _, done = finished
        assert done.stderr == ""
        assert_quiet(done.stdout)
        assert len(done.stdout.splitlines()) < 45

    def test_leaves_no_process(self, finished):
        case, _ = finished
        wait_until(lambda: not case.processes(), what="Ray to end")

    def test_writes_to_the_output_folder_alone(self, case):
        assert sorted(path.name for path in case.folder.iterdir()) == [
            "devices",
            "gradsweep-output",
            "starts",
            "study.yaml",
        ]
        names = sorted(path.name for path in case.output.iterdir())
        assert names == [".mlflow.db.lock", "artifacts", "mlflow.db", "steered"]

    def test_writes_report_and_weights(self, case):
        assert sorted(path.name for path in (case.results / "report").iterdir()) == FILES
        assert all((case.results / "report" / name).stat().st_size > 100 for name in FILES)
        balancer = Static.load(case.results / "weights.json")
        assert balancer.tasks == TASKS
        assert math.isclose(float(balancer.weights.sum()), 2, rel_tol=1e-5)
        content = json.loads((case.results / "weights.json").read_text())
        assert sorted(content["runs"]) == sorted(
            run.info.run_id
            for run in case.runs()
            if run.data.tags["gradsweep.arm"] == content["arm"] and run.data.tags["gradsweep.phase"] == "confirm"
        )
        assert content["seeds"] == [1, 2]


@pytest.mark.slow
class TestTracking:
    def test_every_trial_is_one_finished_run(self, case):
        assert case.starts() == TRIALS
        assert_complete(case.runs())
        assert {run.data.tags["mlflow.parentRunId"] for run in case.runs()} == {case.runs("launch")[0].info.run_id}

    def test_the_parent_run_holds_the_study(self, case, tmp_path):
        client = MlflowClient(case.uri)
        (parent,) = case.runs("launch")
        assert parent.info.status == "FINISHED"
        assert parent.info.run_name == "steered launch 1"
        assert parent.data.tags["gradsweep.status"] == "finished"
        assert parent.data.metrics.keys() == {"regret", "regret_low", "regret_high"}
        assert "GradNorm" in parent.data.tags["mlflow.note.content"]
        files = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
        assert files == {f"report/{name}" for name in [*FILES, "weights.json"]}
        study = Path(client.download_artifacts(parent.info.run_id, "study.yaml", str(tmp_path)))
        assert study.read_text() == (case.folder / "study.yaml").read_text()

    def test_a_gradnorm_trial_has_parameters_curves_and_scores(self, case):
        run = next(r for r in case.runs() if r.data.tags["gradsweep.phase"] == "sweep")
        assert run.data.params["recipe"] == "robust"
        assert {
            "method",
            "alpha",
            "seed",
            "epochs",
            "problem",
            "problem/folder",
            "data_hash",
        } <= run.data.params.keys()
        curves = {f"{group}/{task}" for group in ("loss", "val", "w", "G", "r") for task in TASKS}
        averages = {
            f"mean_w_{kind}/{task}"
            for kind in ("arithmetic", "geometric", "tail", "geometric_tail")
            for task in TASKS
        }
        assert curves | averages | {"steps", "seconds", "score/val"} <= run.data.metrics.keys()
        assert not [key for key in run.data.metrics if key.startswith("test/") or key == "score/test"]
        assert sum(run.data.metrics[f"w/{task}"] for task in TASKS) == pytest.approx(2)
        for key in curves:
            history = MlflowClient(case.uri).get_metric_history(run.info.run_id, key)
            assert [point.step for point in history] == [1, 2]
        tags = run.data.tags
        assert tags["mlflow.runName"] == f"{tags['gradsweep.arm']} seed {tags['gradsweep.seed']}"
        assert {"gradsweep.method", "gradsweep.torch", "gradsweep.version", "mlflow.user"} <= tags.keys()

    def test_test_metrics_are_those_of_confirm_trials_alone(self, case):
        for run in case.runs():
            confirm = run.data.tags["gradsweep.phase"] == "confirm"
            has_score = confirm and run.data.params["method"] != "single_task"
            assert ("test/near" in run.data.metrics) == confirm
            assert ("score/test" in run.data.metrics) == has_score
            assert run.data.params["test"] == str(confirm)

    def test_scores_are_written_once_and_with_the_result_where_they_are_known(self, case):
        client, runs = MlflowClient(case.uri), case.runs()
        known_from = max(run.info.end_time for run in runs if run.data.tags["gradsweep.phase"] == "references")
        # with two workers, a reference may end last: then the report writes all
        for run in runs:
            points = client.get_metric_history(run.info.run_id, "score/val")
            assert len(points) == ("score/val" in run.data.metrics)
            if points and run.data.tags["gradsweep.phase"] != "confirm" and run.info.start_time > known_from:
                assert points[0].timestamp == run.info.end_time

    @pytest.mark.parametrize("method", ["gradnorm", "static"])
    def test_the_trajectory_has_every_step(self, case, method, tmp_path):
        run = next(r for r in case.runs() if r.data.tags["gradsweep.method"] == method)
        path = MlflowClient(case.uri).download_artifacts(run.info.run_id, "trajectory.parquet", str(tmp_path))
        table = pd.read_parquet(path)
        assert list(table) == ["step", *(f"{name}/{task}" for name in "wGrL" for task in TASKS)]
        assert list(table["step"]) == list(range(8)) == list(range(int(run.data.metrics["steps"])))
        assert (table[["L/near", "L/far off"]] > 0).all(axis=None)
        assert table[["w/near", "w/far off"]].sum(axis=1).to_list() == pytest.approx([2] * 8)
        assert table["G/near"].isna().all() == (method == "static")
        if method == "static":
            assert table["w/near"].to_list() == pytest.approx(
                [float(run.data.params["weights/near"])] * 8, rel=1e-5
            )  # six digits, then scaled


@pytest.mark.slow
class TestAfterwards:
    def test_the_same_command_runs_nothing(self, finished, capsys, monkeypatch):
        case, first = finished
        monkeypatch.chdir(case.folder)
        code, out, err = main(capsys, "run", "study.yaml")
        assert (code, err) == (0, "")
        assert "\nEvery trial of this study has finished; nothing was run.\n" in out
        assert verdict(out) == verdict(first.stdout)
        assert not ray.is_initialized()
        assert case.starts() == len(case.runs()) == TRIALS
        assert len(case.runs("launch")) == 1

    def test_report_writes_figures_too(self, finished, capsys, monkeypatch):
        case, _ = finished
        monkeypatch.chdir(case.folder)
        code, _, err = main(capsys, "report", "study.yaml", "-o", "drawn", "--figures", "gif")
        assert (code, "'gif' is not one of 'svg'" in err) == (2, True)
        monkeypatch.setenv("BROWSER_PATH", str(case.folder / "no-browser"))
        code, _, err = main(capsys, "report", "study.yaml", "-o", "drawn", "--figures", "svg")
        assert (code, err) == (2, "error: --figures: needs Chrome or Chromium, and found none that starts\n")
        assert sorted(path.name for path in (case.folder / "drawn" / "report").iterdir()) == sorted(
            [*FILES, "figures"]
        )
        assert list((case.folder / "drawn" / "report" / "figures").iterdir()) == []

    def test_report_writes_elsewhere(self, finished, capsys, monkeypatch):
        case, first = finished
        monkeypatch.chdir(case.folder)
        code, out, _ = main(capsys, "report", "study.yaml", "-o", "elsewhere")
        assert code == 0
        assert verdict(out) == verdict(first.stdout)
        assert sorted(path.name for path in (case.folder / "elsewhere" / "report").iterdir()) == FILES
        table = pd.read_csv(case.folder / "elsewhere" / "report" / "arms.csv")
        pd.testing.assert_frame_equal(table, pd.read_csv(case.results / "report" / "arms.csv"))

    def test_report_answers_at_once_with_other_priorities_and_limits(self, finished, capsys, monkeypatch):
        case, _ = finished
        monkeypatch.chdir(case.folder)
        told = ("--priority", "near=0", "--limit", "near=0", "-o", "other")
        code, out, err = main(capsys, "report", "study.yaml", *told)
        assert (code, err) == (0, "")
        found = json.loads((case.folder / "other" / "report" / "comparison.json").read_text())
        assert [(task["priority"], task["limit"]) for task in found["tasks"]] == [(0, 0), (1, None)]
        assert "! misses a limit." in out
        weights = json.loads((case.folder / "other" / "weights.json").read_text())
        assert weights["limits"]["near"]["kept"] is (found["recommended"]["misses"] == [])
        assert case.starts() == len(case.runs()) == TRIALS
        code, _, err = main(capsys, "report", "study.yaml", "--limit", "x=1", "-o", "none")
        assert (code, err) == (2, "error: limits: expected tasks of the problem (near, far off), got 'x'\n")
        assert not (case.folder / "none").exists()

    def test_export_writes_the_recommended_arm_or_another(self, case, capsys, monkeypatch):
        monkeypatch.chdir(case.folder)
        code, out, _ = main(capsys, "export", "study.yaml")
        assert (code, out[:14]) == (0, "weights.json: ")
        exported, first = (json.loads((f / "weights.json").read_text()) for f in (case.folder, case.results))
        assert exported["weights"] == first["weights"]
        code, out, _ = main(capsys, "export", "study.yaml", "--arm", "equal", "-o", "more/equal.json")
        assert (code, out) == (0, "more/equal.json: equal: near 1, far off 1\n")
        assert Static.load(case.folder / "more" / "equal.json").weights.tolist() == [1, 1]

    def test_export_names_what_it_takes(self, case, capsys, monkeypatch):
        monkeypatch.chdir(case.folder)
        code, out, err = main(capsys, "export", "study.yaml", "--arm", "gradnorm/robust/alpha=0")
        assert (code, out) == (2, "")
        assert err.startswith("error: --arm: expected ")
        assert err.endswith("got 'gradnorm/robust/alpha=0'\n")
        assert len(err.splitlines()) == 1
        code, out, err = main(capsys, "export", "study.yaml", "-o", "study.yaml/weights.json")
        assert (code, out) == (2, "")
        assert err.startswith("error: -o: study.yaml/weights.json cannot be written: ")

    def test_ui_shows_the_study_and_ends_with_its_children(self, case, capsys, monkeypatch):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = case.start("ui", "--no-browser", "--port", str(port))
        try:
            line = process.stdout.readline()
            assert line.startswith(f"MLflow UI: http://127.0.0.1:{port}/#/experiments")
            call = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=steered"
            experiment = json.load(urlopen(call, timeout=60))["experiment"]
            page = urlopen(Request(f"http://127.0.0.1:{port}/"), timeout=60).read()
            assert b"<title>MLflow</title>" in page
            run = case.runs("launch")[0].info.run_id
            file = f"http://127.0.0.1:{port}/get-artifact?path=report/report.html&run_id={run}"
            assert b"<html" in urlopen(file, timeout=60).read()
            assert experiment["lifecycle_stage"] == "active"
            monkeypatch.chdir(case.folder)
            code, _, err = main(capsys, "ui", "--no-browser", "--port", str(port))
            assert code == 2
            assert err.startswith(f"error: --port: 127.0.0.1:{port} cannot be listened on: Address already in use")
            assert len(case.processes()) >= 2
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
        assert (process.returncode, out, err) == (0, "", "")
        wait_until(lambda: not case.processes(), what="the server to end")
        assert not [path for path in case.folder.iterdir() if path.name.startswith("ml")]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stage_shows_any_text_as_it_is(terminal):
    console = Console(force_terminal=terminal, file=StringIO(), width=200, color_system=None)
    with stage(console, "opening /tmp/a[/b] [red]x \x1b]0;owned\x07"):
        pass
    shown = console.file.getvalue()
    assert "opening /tmp/a[/b] [red]x \\x1b]0;owned\\x07" in shown
    assert "\x1b]0" not in shown


class TestView:
    """The progress view of a running study."""

    @pytest.fixture
    def schedule(self, tmp_path) -> Schedule:
        return Schedule(open_plan(Case(tmp_path).study()))

    @staticmethod
    def play(schedule: Schedule, view: ProgressView) -> None:
        """One trial diverges, one fails, one finishes with an alarm, one runs."""
        results = [
            TrialResult("diverged", error="the first loss is not finite"),
            TrialResult("failed", error="OSError: full\n\nTraceback"),
            TrialResult("finished", alarms=["was given 0.5 GPU that torch cannot see"]),
        ]
        for result in results:
            planned = schedule.next()
            identity = planned.config.identity
            schedule.begun(identity)
            view.trial_started(planned)
            view.trial_reported(planned, EpochReport(1, 2, 4, 0.1, {}, {}, {}, {}, {}))
            schedule.finished(identity, result)
            view.trial_ended(planned, result)
        planned = schedule.next()
        schedule.begun(planned.config.identity)
        view.trial_started(planned)

    def test_on_a_terminal_it_has_one_line_per_phase(self, schedule):
        console = Console(force_terminal=True, file=StringIO(), width=80, color_system=None)
        view = ProgressView(schedule, console)
        with view.shown():
            self.play(schedule, view)
        last = console.file.getvalue().split("references")[-1]
        lines = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", f"references{last}").splitlines()
        assert re.search(r"references .* 1/2 +1 failed", lines[0])
        assert re.search(r"static .* 1/3 +1 running", lines[1])
        assert re.search(r"sweep .* 0/2", lines[2])
        assert re.search(r"confirm .* 0/16", lines[3])
        assert re.search(r"all .* 2/23 +1 running +1 failed +0:0\d:\d\d left", lines[4])

    def test_on_a_pipe_it_prints_faults_and_a_line_every_ten_seconds(self, schedule, monkeypatch):
        console = Console(file=StringIO(), width=100)
        view = ProgressView(schedule, console)
        with view.shown():
            self.play(schedule, view)
            assert console.file.getvalue().splitlines() == [
                "diverged: single_task/near seed 0: the first loss is not finite",
                "failed: single_task/far off seed 0: OSError: full",
                "equal seed 0: was given 0.5 GPU that torch cannot see (shown once; the end lists all)",
            ]
            monkeypatch.setattr("hpo.launch.progress.PLAIN_SECONDS", 0.0)
            view.trial_started(schedule.next())
        line = console.file.getvalue().splitlines()[-1]
        assert re.fullmatch(
            r"references 1/2, static 1/3, sweep 0/2, confirm 0/16; 1 running; "
            r"0:0\d:\d\d elapsed, about 0:0\d:\d\d left",
            line,
        )

    def test_epochs_of_running_trials_count_as_progress(self, schedule, monkeypatch):
        console = Console(file=StringIO(), width=100)
        view = ProgressView(schedule, console)
        monkeypatch.setattr("hpo.launch.progress.PLAIN_SECONDS", 0.0)
        for _ in range(2):
            planned = schedule.next()
            schedule.begun(planned.config.identity)
            view.trial_started(planned)
        assert re.search(r"; 2 running; 0:0\d:\d\d elapsed$", console.file.getvalue().splitlines()[-1])
        view.trial_reported(planned, EpochReport(1, 2, 4, 0.1, {}, {}, {}, {}, {}))
        line = console.file.getvalue().splitlines()[-1]
        assert re.search(r"references 0/2, .*; 2 running, epoch 1 of 2; 0:0\d:\d\d elapsed, about 0:0\d:", line)
