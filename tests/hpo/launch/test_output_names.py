"""An output folder may have any name that the file system takes: everything lands in it, and nothing beside it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hpo.launch.workspace import place
from hpo.tracking.backend import embedded_uri, sqlite_path
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.server import healthy, serve
from tests.helpers.runs import Case

NAMES = [
    "a%20b",
    "a?b",
    "a%3Fb",
    "a?b=c%2Fd",
    "a#b",
    "a;b",
    "100%",
    " a b ",
    "ünïcode→",
    "line\n",
    "a&b",
    "a:b@c",
    "a[b]",
    "a\\b",
    "~",
]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database, whose migrations take seconds."""
    folder = tmp_path_factory.mktemp("output")
    StudyExperiment(embedded_uri(folder), "first", folder)
    return folder / "mlflow.db"


def test_a_plain_folder_keeps_its_uri(tmp_path):
    assert embedded_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "relative"), [*((name, False) for name in NAMES), ("a?b", True), ("a%20b", True)])
def test_all_files_of_a_study_are_in_its_folder(name, relative, database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    where = place(Path(name) if relative else folder, None)
    assert sqlite_path(where.uri) == folder / "mlflow.db"
    store = StudyExperiment(where.uri, "study", where.output)
    store.start_launch("name: x")
    again = StudyExperiment(where.uri, "study", where.output, create=False)
    found = again.study_file(str(again.latest_launch()), str(tmp_path / "copy"))
    assert found is not None
    assert found.read_text() == "name: x"
    shutil.rmtree(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert {"mlflow.db", "artifacts"} <= {path.name for path in folder.iterdir()}
    assert len(list((folder / "artifacts").rglob("study.yaml"))) == 1


@pytest.mark.slow
def test_a_study_and_its_server_in_a_folder_of_a_strange_name(tmp_path, monkeypatch):
    case = Case(tmp_path / "a?b %20#;é", workers=1)
    case.study(
        seeds=1, references=["single_task"], static={"points": 2}, gradnorm={"recipes": ["robust"], "trials": 1}
    )
    done = case.command("run", "study.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert (case.results / "report" / "report.html").exists()
    assert len(list(case.output.glob("artifacts/**/trajectory.parquet"))) == 12
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.chdir(case.folder)
    server = serve(embedded_uri(case.output), "127.0.0.1", port)
    try:
        assert healthy(f"http://127.0.0.1:{port}", server)
        names = {one.name for one in MlflowClient(f"http://127.0.0.1:{port}").search_experiments()}
    finally:
        server.terminate()
        server.wait()
    assert case.name in names
    assert [path.name for path in tmp_path.iterdir()] == [case.folder.name]
