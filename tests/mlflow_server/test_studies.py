"""Studies that log to real servers: sixteen trials at once, nothing missing, and no secret anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from hpo.tracking.delivery import MlflowWriter
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.outbox import Outbox
from tests.helpers.mlflow_servers import FOLDER, postgresql, running, status  # noqa: F401
from tests.helpers.runs import Case, assert_complete, assert_only_stages, assert_quiet, main
from tests.helpers.tracking import planned, report, result, trial_runs

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set")]

AT_ONCE = 16
EPOCHS = 20
SMALL_SWEEP = {"recipes": ["robust"], "trials": 1}
# Made anew each time: what the source of this test says, Ray may ship.
SECRETS = {
    name: uuid4().hex
    for name in (
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
        "PGPASSWORD",
        "AWS_SECRET_ACCESS_KEY",
    )
}


def log_sixteen_trials_at_once(url: str, folder: Path) -> None:
    """Sixteen threads tell the driver's writer of a trial each, and everything arrives."""
    store = StudyExperiment(url, "sixteen", folder)
    writer = MlflowWriter(store, store.start_launch("name: sixteen"), Outbox(folder / "undelivered"))
    together = threading.Barrier(AT_ONCE)

    def train(seed: int) -> None:
        together.wait()
        writer.trial_started(planned(seed))
        for epoch in range(1, EPOCHS + 1):
            writer.trial_reported(planned(seed), report(epoch, loss=1.0 + seed))
            together.wait()  # as if an epoch took all of them as long
        writer.trial_ended(planned(seed), result())

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.close() == []
    assert writer.faults == 0, writer.last_fault
    runs = trial_runs(store)
    assert sorted(int(run.data.tags["gradsweep.seed"]) for run in runs) == list(range(AT_ONCE))
    for run in runs:
        seed = int(run.data.tags["gradsweep.seed"])
        assert run.info.status == "FINISHED"
        assert run.data.params["alpha"] == "0.5"
        points = store.client.get_metric_history(run.info.run_id, "G/normals")
        expected = [(epoch, (1.0 + seed) / epoch) for epoch in range(1, EPOCHS + 1)]
        assert [(point.step, point.value) for point in points] == expected


def test_sixteen_trials_at_once_through_a_server_on_sqlite(tmp_path):
    with running("server-sqlite.sh", tmp_path, MLFLOW_DATA="data") as server:
        log_sixteen_trials_at_once(server.url, tmp_path)
    assert len(list((tmp_path / "data" / "artifacts").rglob("trajectory.parquet"))) == AT_ONCE


def test_a_team_s_server_takes_sixteen_trials_and_a_study_and_no_secret_is_anywhere(
    tmp_path,
    postgresql,  # noqa: F811
    monkeypatch,
    capfd,
):
    auth = (FOLDER / "auth.ini").read_text()
    auth = auth.replace("sqlite:////var/lib/gradsweep-mlflow/basic_auth.db", f"sqlite:///{tmp_path}/basic_auth.db")
    (tmp_path / "auth.ini").write_text(auth)
    variables = {
        "PGHOST": postgresql,
        "PGUSER": "postgres",
        "MLFLOW_ARTIFACTS_DESTINATION": "artifacts",
        "MLFLOW_AUTH_CONFIG_PATH": "auth.ini",
        "MLFLOW_AUTH_ADMIN_PASSWORD": SECRETS["MLFLOW_TRACKING_PASSWORD"],
        **SECRETS,
    }
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    with running("server-postgresql.sh", tmp_path, **variables) as server:
        assert status(f"{server.url}/api/2.0/mlflow/experiments/get?experiment_id=0") == 401
        log_sixteen_trials_at_once(server.url, tmp_path / "sixteen")
        case = Case(tmp_path / "driver", database=False)
        case.study(seeds=1, references=["single_task"], static={"points": 2}, gradnorm=SMALL_SWEEP)
        client = SECRETS | {"MLFLOW_TRACKING_URI": server.url, "MLFLOW_TRACKING_USERNAME": "admin"}
        with monkeypatch.context() as patch:
            patch.chdir(case.folder)
            patch.setenv("MLFLOW_TRACKING_URI", server.url)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", "an-0ther-word")
            code, out, err = main(capfd, "run", "study.yaml")
        assert code == 2
        assert_only_stages(out)
        assert err.startswith(f"error: --tracking-uri: {server.url} cannot be used: ")
        assert "an-0ther-word" not in err
        done = case.command("run", "study.yaml", environment=client)
        assert (done.returncode, done.stderr) == (0, "")
        assert_quiet(done.stdout)
        assert_complete(case.runs(uri=server.url), 12)
        assert f"MLflow UI  gradsweep ui --tracking-uri {server.url}\n" in done.stdout
        (run, *_) = case.runs(uri=server.url)
        page = (case.results / "report" / "report.html").read_text()
        assert f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}" in page
    assert len(list((tmp_path / "artifacts").rglob("trajectory.parquet"))) == AT_ONCE + 12
    assert len(list((tmp_path / "artifacts").rglob("report.html"))) == 1
    written = [
        done.stdout,
        *contents(postgresql),
        *texts(tmp_path),
        *texts(Path("/tmp/ray/session_latest").resolve()),
    ]
    assert any("steered launch 1" in text for text in written)
    for secret in SECRETS.values():
        assert not [text[:200] for text in written if secret in text]


def contents(folder: str) -> Iterator[str]:
    """All that the database holds, as text."""
    with psycopg.connect(host=folder, user="postgres", dbname="mlflow") as connection:
        names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        for (table,) in connection.execute(names).fetchall():
            yield json.dumps(connection.execute(f'SELECT * FROM "{table}"').fetchall(), default=str)


def texts(folder: Path) -> Iterator[str]:
    """The content of every file, whatever it is."""
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path) / name
            if file.is_file():
                yield subprocess.run(["cat", file], capture_output=True, check=False).stdout.decode("latin-1")
