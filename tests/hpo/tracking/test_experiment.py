"""The runs in MLflow, whatever the backend does, and backends other than SQLite."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpo.core.errors import TrackingError
from hpo.tracking.backend import embedded_uri
from hpo.tracking.experiment import OpenRun, StudyExperiment
from hpo.tracking.outbox import EndedTrial, Outbox
from tests.helpers.mlflow_servers import postgresql  # noqa: F401
from tests.helpers.runs import Case, assert_complete, place_database
from tests.helpers.tracking import again, history, only_run, planned, result, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a database; each test has a study of its own in it."""
    folder = tmp_path_factory.mktemp("tracking")
    place_database(folder)
    return folder


@pytest.fixture
def store(folder: Path, request: pytest.FixtureRequest) -> StudyExperiment:
    return StudyExperiment(embedded_uri(folder), request.node.name, folder)


class TestScores:
    def test_scores_that_change_replace_what_was_there(self, store, folder):
        write(store, Outbox(folder / "undelivered"), planned(), result())
        other, _ = again(store, folder)
        for score in (3.0, 3.0, 2.0):
            other.log_scores({planned().config.identity: {"score/val": score}})
        assert only_run(store).data.metrics["score/val"] == 2.0
        assert len(history(store, "score/val")) == 2

    def test_scores_that_are_there_are_not_asked_for_again(self, store, folder, monkeypatch):
        write(store, Outbox(folder / "undelivered"), planned(), result())
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
    def test_runs_that_have_ended_are_not_read(self, store, folder, monkeypatch):
        journal = Outbox(folder / "undelivered")
        for seed in range(3):
            write(store, journal, planned(seed), result())
        other = StudyExperiment(store.uri, store.study, folder)
        read = []
        search = other._search
        monkeypatch.setattr(other, "_search", lambda *asked: read.extend(found := search(*asked)) or found)
        other.reconcile()
        assert read == []

    def test_runs_that_a_killed_driver_left_open_are_closed(self, store, folder):
        launch = store.start_launch("name: x")
        client = MlflowClient(store.uri)
        tags = {"gradsweep.kind": "trial", "gradsweep.identity": "abc", "gradsweep.status": "running"}
        run = client.create_run(store.experiment_id, tags=tags).info.run_id
        other = StudyExperiment(store.uri, store.study, folder)
        assert other.reconcile() == 2
        for open_run in (launch, run):
            found = client.get_run(open_run)
            assert (found.info.status, found.data.tags["gradsweep.status"]) == ("KILLED", "interrupted")
        assert other.reconcile() == 0
        assert other.records() == []
        assert other.run_of("abc") == run

    @pytest.mark.parametrize("ended", [0, 1])
    def test_of_two_runs_of_one_trial_the_one_that_ended_counts(self, store, folder, ended):
        first = store.open(planned(), "parent", 1)
        store._runs.clear()  # as for a driver that began at the same time
        second = store.client.create_run(
            store.experiment_id, start_time=2, tags=store.client.get_run(first.run_id).data.tags
        )
        run = (first.run_id, second.info.run_id)[ended]
        store.write(EndedTrial(planned(), "parent", 1, 2, result()), OpenRun(run, 1, {}, second.info.artifact_uri))
        other, (record,) = again(store, folder)
        assert record.run_id == other.run_of(planned().config.identity) == run

    def test_launches_are_numbered(self, store):
        for number in (1, 2):
            run = store.client.get_run(store.start_launch("name: x"))
            assert run.info.run_name == f"{store.study} launch {number}"
        assert store.latest_launch() == run.info.run_id


class TestBackend:
    def test_the_error_of_a_server_shows_no_password(self, store, monkeypatch):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        store.uri = "http://bob:s3cr3t@127.0.0.1:9"
        store.client = MlflowClient(store.uri)  # nothing listens there
        for ask in (store.records, store.reconcile, store.open_launches, store.latest_launch):
            with pytest.raises(TrackingError) as refused:
                ask()
            assert str(refused.value).startswith("--tracking-uri: http://bob:***@127.0.0.1:9 cannot be used: ")
            assert "s3cr3t" not in str(refused.value)

    def test_an_interrupt_stays_one_when_tidying_up_after_it_fails(self, store, folder, monkeypatch):
        def interrupted(*_, **__):
            try:
                raise KeyboardInterrupt
            finally:  # as SQLAlchemy, whose session cannot be closed in the middle of a statement
                store.client.get_run("no such run")

        monkeypatch.setattr(MlflowClient, "search_runs", interrupted)
        monkeypatch.setattr(MlflowClient, "get_experiment_by_name", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.records()
        with pytest.raises(KeyboardInterrupt):
            StudyExperiment(store.uri, "other", folder)

    def test_a_deleted_study_says_so(self, store, folder):
        store.client.delete_experiment(store.experiment_id)
        with pytest.raises(TrackingError, match="was deleted in MLflow; restore or rename it"):
            StudyExperiment(store.uri, store.study, folder)

    def test_outside_a_repository_there_is_no_commit(self, store, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        tags = store.client.get_run(store.start_launch("name: x")).data.tags
        assert "mlflow.source.git.commit" not in tags
        monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
        store.start_launch("name: x")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set")
def test_a_study_in_postgresql(postgresql, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    uri = f"postgresql+psycopg://postgres:any@/mlflow?host={postgresql}"
    case = Case(tmp_path, database=False, workers=1)
    small = {"recipes": ["robust"], "trials": 1}
    case.study(seeds=1, references=["single_task"], static={"points": 2}, gradnorm=small)
    finished, printed = case.run(uri)
    assert finished.complete
    assert not finished.faults
    assert "postgres:***@" in printed
    assert_complete(case.runs(uri=uri), 12)
    assert len(list(case.output.glob("artifacts/steered/**/trajectory.parquet"))) == 12
    assert len(list(case.output.glob("artifacts/steered/**/report/report.html"))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["devices", "gradsweep-output", "starts", "study.yaml"]
    again, printed = case.run(uri)
    assert again.ran == 0
    assert "starting Ray" not in printed
