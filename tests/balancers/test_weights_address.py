"""Weights files at other places than a path: MLflow's runs and registered versions, and storages of fsspec."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from mlflow import MlflowClient

from balancers import Static
from balancers.weights_address import LARGEST, shown
from balancers.weights_file import read_content
from tests.helpers.runs import place_database
from tests.helpers.weights_files import write_weights_file

WEIGHTS = {"near": 1.5, "far": 0.5}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.json"
    write_weights_file(path, WEIGHTS)
    return path


class Logged:
    """A run with two files, and a registered version of the folder that holds one of them."""

    def __init__(self, folder: Path) -> None:
        self.uri = place_database(folder)
        client = MlflowClient(self.uri)
        experiment = client.create_experiment("loaded", artifact_location=(folder / "artifacts").as_uri())
        self.run = client.create_run(experiment).info.run_id
        file = folder / "weights.json"
        write_weights_file(file, WEIGHTS)
        client.log_artifact(self.run, str(file))
        client.log_artifact(self.run, str(file), "registered/abc")
        file.write_bytes(b" " * (LARGEST + 1))
        client.log_artifact(self.run, str(file), "large")
        client.create_registered_model("net")
        client.create_model_version("net", f"runs:/{self.run}/registered/abc", self.run)
        client.set_registered_model_alias("net", "production", "1")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """MLflow as production finds it: by the variable in the environment."""
    found = Logged(tmp_path_factory.mktemp("mlflow"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", found.uri)
        yield found


class TestMlflow:
    @pytest.mark.parametrize(
        "address",
        [
            "runs:/{run}/weights.json",
            "runs:/{run}/registered/abc/weights.json",
            "models:/net/1",
            "models:/net/1/weights.json",
            "models:/net/latest",
            "models:/net@production",
            "models:/net@production/weights.json",
        ],
    )
    def test_addresses_of_a_weights_file(self, logged, address):
        assert Static.load(address.format(run=logged.run), tasks=["far", "near"]).weights.tolist() == [0.5, 1.5]

    @pytest.mark.parametrize(
        ("address", "error", "words"),
        [
            ("runs:/{run}/none.json", FileNotFoundError, "runs:/{run}/none.json: no such file"),
            ("runs:/{run}/registered", FileNotFoundError, "no such file"),
            ("runs:/none/weights.json", FileNotFoundError, "Run with id=none not found"),
            (
                "models:/net/2",
                FileNotFoundError,
                "(MLFLOW_TRACKING_URI), got Model Version (name=net, version=2) not",
            ),
            ("models:/other/1", FileNotFoundError, "Registered Model with name=other not found"),
            ("models:/net@none", ValueError, "models:/net@none: expected a file in MLflow at sqlite:///"),
            ("models:/net", ValueError, "expected runs:/RUN_ID/path, models:/NAME/VERSION or models:/NAME@ALIAS"),
            ("runs:/{run}", ValueError, "expected runs:/RUN_ID/path"),
            ("runs:/{run}/large/weights.json", ValueError, "expected a weights file of at most 10000000 bytes"),
        ],
    )
    def test_a_file_that_is_not_there_is_named(self, logged, address, error, words):
        with pytest.raises(error) as caught:
            Static.load(address.format(run=logged.run))
        assert words.format(run=logged.run) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def site(file: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=file.parent)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestStorage:
    def test_any_file_system_of_fsspec(self, file):
        with fsspec.open("memory://team/weights.json", "wb") as target:
            target.write(file.read_bytes())
        for address in ("memory://team/weights.json", file.as_uri(), f"simplecache::{file.as_uri()}"):
            assert Static.load(address).as_dict() == WEIGHTS

    def test_a_web_server(self, site):
        assert Static.load(f"{site}/weights.json?version=2").as_dict() == WEIGHTS

    def test_a_file_that_is_not_there_is_named_without_the_secrets_of_its_address(self, site):
        address = f"{site}/none.json?sig=s3cret".replace("//", "//ada:s3cret@", 1)
        with pytest.raises(FileNotFoundError) as caught:
            Static.load(address)
        line = f"{site}/none.json?***: no such file (ClientResponseError)"
        assert str(caught.value) == line.replace("//", "//***@", 1)

    def test_a_server_that_does_not_answer_is_told_from_a_file_that_is_not_there(self):
        with pytest.raises(FileNotFoundError, match=r"^http://127\.0\.0\.1:1/a\.json: no such file \(Cannot connect"):
            Static.load("http://127.0.0.1:1/a.json")

    def test_large_files_are_refused_wherever_they_are(self, file):
        file.write_bytes(b" " * (LARGEST + 1))
        for address in (file, str(file), file.as_uri()):
            with pytest.raises(ValueError, match=r"weights\.json: expected a weights file of at most 10000000 bytes"):
                Static.load(address)

    def test_what_is_read_is_checked_as_a_local_file(self):
        for content, words in ((b"\x80\x04.", "in JSON"), (b"{}", "schema, version: expected")):
            with fsspec.open("memory://team/bad.json", "wb") as target:
                target.write(content)
            with pytest.raises(ValueError, match=rf"^memory://team/bad\.json: .*{words}"):
                Static.load("memory://team/bad.json")

    def test_an_unknown_kind_of_address(self):
        with pytest.raises(ValueError, match=r"^nowhere://a\.json: expected a file that fsspec can read, got Prot"):
            Static.load("nowhere://a.json")


@pytest.mark.parametrize(
    ("module", "address", "line"),
    [
        ("mlflow", "models:/net/1", "models:/net/1: needs MLflow, which is not installed: pip install mlflow"),
        ("fsspec.core", "s3://t/w.json", "s3://t/w.json: needs fsspec, which is not installed: pip install fsspec"),
        ("s3fs", "s3://t/w.json", "s3://t/w.json: needs a package that is not installed: Install s3fs to access S3"),
    ],
)
def test_a_package_that_is_missing_is_named(module, address, line, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as Python marks a module that cannot be found
    with pytest.raises(ImportError) as error:
        Static.load(address)
    assert str(error.value) == line


def test_a_path_may_look_like_an_address_if_it_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs:").mkdir()
    write_weights_file(Path("runs:/weights.json"), WEIGHTS)
    assert Static.load(Path("runs:/weights.json")).as_dict() == WEIGHTS


def test_other_fields_of_a_file_are_returned_unchecked(file):
    assert read_content(file) == {
        "schema": "gradsweep.weights",
        "version": 1,
        "tasks": ["near", "far"],
        "weights": WEIGHTS,
    }


def test_a_password_with_a_slash_is_masked_whole():
    assert shown("s3://KEY:S/CRET@bucket/w.json") == "s3://***@bucket/w.json"
    assert shown("https://example.com/w.json#s3cret") == "https://example.com/w.json"
