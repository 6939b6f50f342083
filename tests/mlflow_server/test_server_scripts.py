"""The scripts of mlflow/ are started for real and used as a study would use them."""

import subprocess
from pathlib import Path

import mlflow.projects.utils
import psycopg
import pytest
from mlflow import MlflowClient

from tests.helpers.mlflow_servers import FOLDER, postgresql, running, status  # noqa: F401

pytestmark = pytest.mark.slow


def log_a_run_and_read_it_back(url: str, folder: Path) -> str:
    """Log a run with an artifact as a study does; return where the server keeps artifacts."""
    client = MlflowClient(tracking_uri=url)
    experiment = client.create_experiment("census")
    run = client.create_run(experiment, tags={"phase": "static"})
    client.log_param(run.info.run_id, "alpha", 0.5)
    client.log_metric(run.info.run_id, "score", -1.25, step=3)
    client.log_text(run.info.run_id, "income,age\n1.4,0.6\n", "weights.csv")
    client.set_terminated(run.info.run_id)

    (found,) = client.search_runs([experiment], filter_string="tags.phase = 'static'")
    assert found.info.status == "FINISHED"
    assert found.data.params == {"alpha": "0.5"}
    assert found.data.metrics == {"score": -1.25}
    copy = Path(client.download_artifacts(found.info.run_id, "weights.csv", str(folder)))
    assert copy.read_text() == "income,age\n1.4,0.6\n"
    return found.info.artifact_uri


def test_sqlite_server_keeps_runs_and_artifacts_in_one_folder(tmp_path):
    with running("server-sqlite.sh", tmp_path, MLFLOW_DATA="data") as server:  # relative: made absolute
        artifact_uri = log_a_run_and_read_it_back(server.url, tmp_path)
    assert artifact_uri.startswith("mlflow-artifacts:/")
    assert (tmp_path / "data" / "mlflow.db").stat().st_size > 0
    assert [file.name for file in (tmp_path / "data" / "artifacts").rglob("*.csv")] == ["weights.csv"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data", "server.log", "weights.csv"]


def test_sqlite_server_is_two_processes_and_answers_to_the_names_it_was_given(tmp_path):
    names = "tracker.example:*,127.0.0.1:*"
    with running("server-sqlite.sh", tmp_path, MLFLOW_DATA="data", MLFLOW_SERVER_ALLOWED_HOSTS=names) as server:
        assert len(server.processes()) == 2
        page = f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert status(page) == 200
        assert status(page, host="tracker.example:5000") == 200
        assert status(page, host="elsewhere.example:5000") == 403
        assert status(f"{server.url}/health", host="elsewhere.example:5000") == 200


@pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set")
def test_postgresql_server_keeps_runs_in_the_database(tmp_path, postgresql):  # noqa: F811
    login = {"PGHOST": postgresql, "PGUSER": "postgres"}
    with running("server-postgresql.sh", tmp_path, **login, MLFLOW_ARTIFACTS_DESTINATION="artifacts") as server:
        artifact_uri = log_a_run_and_read_it_back(server.url, tmp_path)
    assert artifact_uri.startswith("mlflow-artifacts:/")
    assert [file.name for file in (tmp_path / "artifacts").rglob("*.csv")] == ["weights.csv"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["artifacts", "server.log", "weights.csv"]
    with psycopg.connect(host=postgresql, user="postgres", dbname="mlflow") as connection:
        assert connection.execute("SELECT key, value, step FROM metrics").fetchall() == [("score", -1.25, 3)]


def test_mlproject_starts_a_study_from_the_repository_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study file.yaml").touch()
    project = mlflow.projects.utils.load_project(str(FOLDER))
    assert project.name == "gradsweep"
    main = project.get_entry_point("main")
    assert {name: parameter.type for name, parameter in main.parameters.items()} == {
        "study": "path",
        "output": "string",
        "tracking_uri": "string",
    }

    # The command itself, with `gradsweep run` replaced by a print of its arguments and of where it runs.
    def arguments(**given: str) -> list[str]:
        command = main.compute_command(given, storage_dir=str(tmp_path))
        assert "gradsweep run " in command
        shown = command.replace("gradsweep run ", r"printf '%s\n' ") + "; pwd"
        done = subprocess.run(["bash", "-c", shown], cwd=FOLDER, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    study = str(tmp_path / "study file.yaml")
    root = str(FOLDER.parent)
    assert arguments(study="study file.yaml") == [study, "--output", "gradsweep-output", root]
    assert arguments(study="study file.yaml", output="my results", tracking_uri="http://127.0.0.1:5000") == [
        *(study, "--output", "my results", "--tracking-uri", "http://127.0.0.1:5000"),
        root,
    ]
