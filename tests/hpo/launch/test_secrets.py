"""A study whose backend and storage need secrets leaves none of them anywhere."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.helpers.buckets import Bucket
from tests.helpers.forks import Forks
from tests.helpers.mlflow_servers import FOLDER, running
from tests.helpers.runs import Case, assert_only_stages, assert_quiet

pytestmark = pytest.mark.slow

# Made anew each time: what the source of this test says, Ray may ship.
PASSWORD, KEY, FIRST, SECOND, WRONG, TOKEN = (uuid4().hex for _ in range(6))


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Ray's files of this test alone, under a path that is short enough for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[Bucket]:
    bucket = Bucket(tmp_path)
    yield bucket
    bucket.process.kill()
    bucket.process.wait()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "driver", workers=1)


@pytest.fixture
def forks(case: Case) -> Iterator[Forks]:
    found = Forks(case.folder, case.mark)
    yield found
    found.close()


def test_a_study_whose_uris_hold_secrets_leaves_none_of_them(tmp_path, ray_folder, bucket, case, forks):
    case.study(
        seeds=1,
        references=["single_task"],
        static={"points": 2},
        gradnorm={"recipes": ["robust"], "trials": 1},
        checkpoint_seconds=0.001,
    )
    case.steer(fail=[1])
    auth = (FOLDER / "auth.ini").read_text()
    auth = auth.replace("sqlite:////var/lib/gradsweep-mlflow/basic_auth.db", f"sqlite:///{tmp_path}/basic_auth.db")
    (tmp_path / "auth.ini").write_text(auth)
    server_needs = {
        "MLFLOW_DATA": "data",
        "MLFLOW_AUTH_CONFIG_PATH": "auth.ini",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": uuid4().hex,
    }
    storage = bucket.uri.replace("s3://", f"s3://{KEY}:{FIRST}%2F{SECOND}@")
    with running("server-sqlite.sh", tmp_path, **server_needs) as server:
        uri = server.url.replace("http://", f"http://admin:{PASSWORD}@")
        works = {"MLFLOW_TRACKING_URI": uri, "GRADSWEEP_STORAGE": storage, "RAY_TMPDIR": str(ray_folder)}
        faults = [
            {"MLFLOW_TRACKING_URI": uri.replace(PASSWORD, WRONG)},
            {"MLFLOW_TRACKING_URI": f"http://admin:{WRONG}@127.0.0.1:9/?token={TOKEN}"},
            {"GRADSWEEP_STORAGE": f"{storage}&session_token={TOKEN}"},
            {"GRADSWEEP_STORAGE": storage.replace("%2F", "/")},
        ]
        refused = [forks.run("run", "study.yaml", environment=works | fault) for fault in faults]
        failed = forks.run("run", "study.yaml", environment=works)
        done = forks.run("run", "study.yaml", environment=works)
        runs = case.runs(uri=uri)
    assert len(runs) >= 12  # the trial that failed first may have led to other arms being confirmed
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in refused:
        assert run.returncode == 2
        assert_only_stages(run.printed())
        assert re.fullmatch(r"error: --(tracking-uri|storage): [^\n]+\n", run.errors())
    assert (failed.returncode, failed.errors()) == (1, "")
    assert (done.returncode, done.errors()) == (0, "")
    assert_quiet(done.printed())
    assert f"MLflow at {server.url.replace('http://', 'http://admin:***@')}" in done.printed()
    assert "MLflow UI  gradsweep ui\n" in done.printed()
    assert f"{server.url}/#/experiments/" in (case.results / "report" / "report.html").read_text()
    written = {name: (run.printed() + run.errors()).encode() for name, run in enumerate([*refused, failed, done])}
    files = {path: path.read_bytes() for top in (tmp_path, ray_folder) for path in top.rglob("*") if path.is_file()}
    assert any(path.name.startswith("raylet") for path in files)  # Ray's logs are there
    assert any(path.name == "mlflow.db" for path in files)
    for secret in (PASSWORD, KEY, FIRST, SECOND, WRONG, TOKEN):
        assert [name for name, content in (written | files).items() if secret.encode() in content] == []
