"""MLflow: what the writer leaves there, whatever the backend does, and other backends than SQLite."""

import math
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from hpo import backend, tracking
from hpo.backend import TrackingError, shown_uri
from hpo.plan import Planned
from hpo.tracking import Record, Tracking, Writer
from hpo.trial import EpochReport, TrialConfig, TrialResult
from tests.hpo.runs_for_tests import Case, assert_complete, assert_quiet, main, wait_until
from tests.mlflow_server.test_server_scripts import postgresql  # noqa: F401

TASKS = ["depth", "normals"]


def planned(seed: int = 0, **arguments: object) -> Planned:
    config = TrialConfig("toy", arguments, "hash", "gradnorm", {"recipe": "robust", "alpha": 0.5}, seed, 2)
    return Planned(config, "sweep", "gradnorm/robust/alpha=0.5")


def report(epoch: int, loss: float = 1.0) -> EpochReport:
    values = dict.fromkeys(TASKS, loss / epoch)
    return EpochReport(epoch, 2, 8 * epoch, 0.1, values, values, values, values, values)


def result(status: str = "finished", validation: float = 0.25, **more: object) -> TrialResult:
    return TrialResult(
        status,
        steps=16,
        seconds=0.5,
        validation=dict.fromkeys(TASKS, validation),
        averages={"tail": dict.fromkeys(TASKS, 1.0)},
        initial_losses=dict.fromkeys(TASKS, 3.0),
        trajectory={"step": np.arange(3), **{name: np.ones((3, 2), "float32") for name in "wGrL"}},
        **more,
    )


def write(store: Tracking, trial: Planned, end: TrialResult | None, epochs: int = 2, loss: float = 1.0) -> None:
    """One trial from its start to its end, or to an interruption."""
    writer = Writer(store, "parent")
    writer.trial_started(trial)
    for epoch in range(1, epochs + 1):
        writer.trial_reported(trial, report(epoch, loss))
    if end is not None:
        writer.trial_ended(trial, end)
    assert writer.close() == []
    assert writer.faults == 0, writer.last_fault


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a database, whose migrations take seconds; each test has a study of its own in it."""
    folder = tmp_path_factory.mktemp("tracking")
    Tracking(backend.embedded_uri(folder), "first", folder)
    return folder


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest) -> Tracking:
    return Tracking(backend.embedded_uri(folder), request.node.name, folder)


def again(store: Tracking, folder: Path) -> tuple[Tracking, list[Record]]:
    """The same study as the next launch opens it, and the trials it need not run."""
    other = Tracking(store.uri, store.study, folder)
    other.reconcile()
    return other, other.records()


def only_run(store: Tracking) -> Run:
    (run,) = store.client.search_runs([store.experiment_id])
    return run


def history(store: Tracking, key: str) -> list[tuple[int, float]]:
    points = store.client.get_metric_history(only_run(store).info.run_id, key)
    return [(point.step, point.value) for point in points]


class TestWriter:
    def test_a_trial_comes_back_as_it_was(self, store, folder):
        write(store, planned(), result(alarms=["a weight reached its floor"]))
        other, (record,) = again(store, folder)
        assert record.config == planned().config
        assert record.run_id == only_run(store).info.run_id == other.run_of(planned().config.identity)
        expected = vars(result(alarms=["a weight reached its floor"])) | {"trajectory": {}}
        expected["averages"] = {"arithmetic": {}, "geometric": {}} | expected["averages"]
        assert vars(record.result) == expected
        table = other.trajectory(planned().config.identity)
        assert list(table) == ["step", *(f"{name}/{task}" for name in "wGrL" for task in TASKS)]

    def test_the_same_trial_again_leaves_one_of_each(self, store, folder):
        write(store, planned(), None)
        run = only_run(store)
        assert (run.info.status, run.data.tags["gradsweep.status"]) == ("KILLED", "interrupted")
        other, records = again(store, folder)
        assert records == []
        write(other, planned(), result())
        other, _ = again(store, folder)
        write(other, planned(), result())
        assert history(store, "loss/depth") == [(1, 1.0), (2, 0.5)]
        assert history(store, "final_val/depth") == [(0, 0.25)]
        assert history(store, "steps") == [(0, 16.0)]
        assert only_run(store).info.run_id == run.info.run_id

    @pytest.mark.parametrize("first", [0.125, 0.5])
    def test_after_a_failure_the_last_values_count(self, store, folder, first):
        write(store, planned(), result("failed", validation=first, error="OSError: full"), epochs=1)
        assert only_run(store).info.status == "FAILED"
        other, (record,) = again(store, folder)
        assert (record.result.status, record.result.error) == ("failed", "OSError: full")
        write(other, planned(), result())
        _, (record,) = again(store, folder)
        assert (record.result.status, record.result.error) == ("finished", "")
        assert record.result.validation == dict.fromkeys(TASKS, 0.25)
        assert only_run(store).info.status == "FINISHED"

    def test_long_histories_are_whole(self, store):
        write(store, planned(), result(), epochs=300)  # 3,000 metrics, three times what a request may carry
        for group in ("loss", "val", "w", "G", "r"):
            assert [step for step, _ in history(store, f"{group}/normals")] == list(range(1, 301))

    def test_many_parameters_and_a_long_config_come_back(self, store, folder):
        trial = planned(**{f"option_{i}": "x" * 100 for i in range(150)})
        write(store, trial, result())
        _, (record,) = again(store, folder)
        assert record.config == trial.config
        assert record.config.identity == trial.config.identity
        assert only_run(store).data.params["problem/option_149"] == "x" * 100

    def test_numbers_that_are_none_come_back(self, store, folder):
        odd = result("diverged")
        odd.validation = {"depth": math.nan, "normals": -math.inf}
        odd.initial_losses = {"depth": math.inf, "normals": 1e308}
        write(store, planned(), odd)
        _, (record,) = again(store, folder)
        assert math.isnan(record.result.validation["depth"])
        assert record.result.validation["normals"] == -math.inf
        assert record.result.initial_losses == {"depth": math.inf, "normals": 1e308}

    def test_a_trial_that_mlflow_refuses_does_not_hold_up_others(self, store, monkeypatch):
        monkeypatch.setattr(tracking, "CLOSE_SECONDS", 1.5)
        bad = planned(seed=1)
        writer = Writer(store, "parent")
        for trial in (bad, planned(seed=2), planned(seed=3)):
            writer.trial_started(trial)
            values = {"depth[0]" if trial is bad else "depth": 1.0}
            writer.trial_reported(trial, EpochReport(1, 2, 8, 0.1, values, {}, {}, {}, {}))
            writer.trial_ended(trial, result())
        assert writer.close() == [bad.name]
        assert "depth[0]" in writer.last_fault
        runs = store.client.search_runs([store.experiment_id], "attributes.status = 'FINISHED'")
        assert {run.data.tags["gradsweep.seed"] for run in runs} == {"2", "3"}

    def test_scores_that_change_replace_what_was_there(self, store, folder):
        write(store, planned(), result())
        other, _ = again(store, folder)
        for score in (3.0, 3.0, 2.0):
            other.log_scores({planned().config.identity: {"score/val": score}})
        assert only_run(store).data.metrics["score/val"] == 2.0
        assert len(history(store, "score/val")) == 2

    def test_scores_that_are_there_are_not_asked_for_again(self, store, folder, monkeypatch):
        write(store, planned(), result())
        scores = {planned().config.identity: {"score/val": 3.0}}
        store.log_scores(scores)
        other, _ = again(store, folder)
        searches = []
        search = other._search
        monkeypatch.setattr(other, "_search", lambda kind: searches.append(kind) or search(kind))
        other.log_scores(scores)
        assert searches == []
        other.log_scores({planned().config.identity: {"score/val": 2.0}})
        other.log_scores(scores)
        assert [value for _, value in history(store, "score/val")] == [3.0, 2.0, 3.0]


class TestReconcile:
    def test_what_a_killed_driver_left_open_is_closed(self, store, folder):
        launch = store.start_launch("name: x")
        client = MlflowClient(store.uri)
        tags = {"gradsweep.kind": "trial", "gradsweep.identity": "abc", "gradsweep.status": "running"}
        run = client.create_run(store.experiment_id, tags=tags).info.run_id
        other = Tracking(store.uri, store.study, folder)
        assert other.reconcile() == 2
        for open_run in (launch, run):
            found = client.get_run(open_run)
            assert (found.info.status, found.data.tags["gradsweep.status"]) == ("KILLED", "interrupted")
        assert other.reconcile() == 0
        assert other.records() == []
        assert other.run_of("abc") == run

    def test_launches_are_numbered(self, store):
        for number in (1, 2):
            run = store.client.get_run(store.start_launch("name: x"))
            assert run.info.run_name == f"{store.study} launch {number}"
        assert store.latest_launch() == run.info.run_id


class TestBackend:
    def test_a_deleted_study_says_so(self, store, folder):
        store.client.delete_experiment(store.experiment_id)
        with pytest.raises(TrackingError, match="was deleted in MLflow; restore or rename it"):
            Tracking(store.uri, store.study, folder)

    def test_outside_a_repository_there_is_no_commit(self, store, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        tags = store.client.get_run(store.start_launch("name: x")).data.tags
        assert "mlflow.source.git.commit" not in tags
        monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
        store.start_launch("name: x")

    @pytest.mark.parametrize(
        ("uri", "shown"),
        [
            ("http://host:5000", "http://host:5000"),
            ("https://me:secret@host/path?x=1", "https://me:***@host/path?x=1"),
            ("postgresql+psycopg://me:se@cret@host:1/db", "postgresql+psycopg://me:***@host:1/db"),
            ("postgresql://me@/db?host=/run", "postgresql://me@/db?host=/run"),
            ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ],
    )
    def test_passwords_are_not_shown(self, uri, shown):
        assert shown_uri(uri) == shown


class Server:
    """An MLflow server that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log, pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)  # a server keeps its artifacts there unless told otherwise
            self.process = backend.serve(f"sqlite:///{self.folder / 'server.db'}", "127.0.0.1", self.port, log)
        assert backend.healthy(self.url, self.process), (self.folder / "log").read_text()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
class TestServer:
    def test_a_study_through_a_server_named_by_the_environment(self, server, tmp_path, capsys, monkeypatch):
        case = Case(tmp_path)
        case.study(seeds=1)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        code, out, err = main(capsys, "run", "study.yaml")
        assert (code, err) == (0, "")
        assert f"MLflow at {server.url}\n" in out
        assert f"MLflow UI  gradsweep ui --tracking-uri {server.url}\n" in out
        assert_quiet(out)
        runs = case.runs(uri=server.url)
        assert_complete(runs, 15)
        assert {path.name for path in case.output.iterdir()} == {"steered"}
        assert len(list(server.folder.glob("mlartifacts/**/trajectory.parquet"))) == 15
        assert len(list(server.folder.glob("mlartifacts/**/report/report.html"))) == 1
        page = (case.results / "report" / "report.html").read_text()
        assert f"{server.url}/#/experiments/{runs[0].info.experiment_id}/runs/{runs[0].info.run_id}" in page

    def test_what_a_stopped_server_misses_arrives_when_it_is_back(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        store = Tracking(server.url, "interrupted server", tmp_path)
        writer = Writer(store, store.start_launch("name: x"))
        first, second, open_one = planned(1), planned(2), planned(3)
        writer.trial_started(first)
        wait_until(lambda: store.run_of(first.config.identity), 30)
        server.stop()
        for trial in (second, open_one):
            writer.trial_started(trial)
        for trial in (first, second):
            writer.trial_reported(trial, report(1))
            writer.trial_ended(trial, result())
        wait_until(lambda: writer.faults, 30)
        server.start()
        assert writer.close() == []
        runs = store.client.search_runs([store.experiment_id], "tags.`gradsweep.kind` = 'trial'")
        states = {run.data.tags["gradsweep.seed"]: run.info.status for run in runs}
        assert states == {"1": "FINISHED", "2": "FINISHED", "3": "KILLED"}
        assert all(run.data.params["alpha"] == "0.5" for run in runs)
        assert len(Tracking(server.url, "interrupted server", tmp_path).records()) == 2

    def test_what_never_arrives_is_named(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setattr(tracking, "CLOSE_SECONDS", 1.0)
        store = Tracking(server.url, "lost server", tmp_path)
        writer = Writer(store, store.start_launch("name: x"))
        server.stop()
        writer.trial_started(planned(1))
        writer.trial_ended(planned(1), result())
        writer.trial_started(planned(2))
        assert writer.close() == ["gradnorm/robust/alpha=0.5 seed 1"]
        assert "Connection refused" in writer.last_fault or "failed with exception" in writer.last_fault


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set")
def test_a_study_in_postgresql(postgresql, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    uri = f"postgresql+psycopg://postgres:any@/mlflow?host={postgresql}"
    case = Case(tmp_path)
    case.study(seeds=1)
    finished, printed = case.run(uri)
    assert finished.complete
    assert not finished.faults
    assert "postgres:***@" in printed
    assert_complete(case.runs(uri=uri), 15)
    assert len(list(case.output.glob("artifacts/steered/**/trajectory.parquet"))) == 15
    assert len(list(case.output.glob("artifacts/steered/**/report/report.html"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["devices", "gradsweep-output", "starts", "study.yaml"]
    again, printed = case.run(uri)
    assert (again.ran, printed) == (0, "")
