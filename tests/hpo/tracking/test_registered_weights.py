"""Weights files in MLflow's model registry: versions, names, and a database that moves."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from balancers import Static
from hpo.core.errors import ExportError, TrackingError
from hpo.tracking.backend import embedded_uri
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.registered_weights import KIND, mlflow_at, register_weights
from tests.helpers.runs import place_database
from tests.helpers.weights_files import write_weights_file


@pytest.fixture
def store(tmp_path: Path) -> StudyExperiment:
    place_database(tmp_path / "output")
    return StudyExperiment(embedded_uri(tmp_path / "output"), "study", tmp_path / "output")


def register(store: StudyExperiment, folder: Path, name: str = "net", **weights: float) -> str:
    file = folder / "weights.json"
    write_weights_file(file, weights or {"near": 1.5, "far": 0.5})
    return register_weights(store, file, name, {"gradsweep.study": "study"}, "a note")


def test_each_registration_is_a_version_that_is_kept(store, tmp_path):
    store.start_launch("name: study")
    assert [register(store, tmp_path, near=1.0, far=w) for w in (1.0, 3.0)] == ["models:/net/1", "models:/net/2"]
    MlflowClient(store.uri).set_registered_model_alias("net", "production", "1")
    with mlflow_at(store.uri):
        assert Static.load("models:/net/2", tasks=["far", "near"]).weights.tolist() == [1.5, 0.5]
        assert Static.load("models:/net@production").weights.tolist() == [1, 1]


def test_a_version_says_where_it_comes_from(store, tmp_path):
    launch = store.start_launch("name: study")
    register(store, tmp_path)
    found = MlflowClient(store.uri).get_model_version("net", "1")
    assert (found.run_id, found.description) == (launch, "a note")
    assert found.tags == {**KIND, "gradsweep.study": "study"}


def test_a_version_is_found_after_its_folder_was_moved(store, tmp_path):
    store.start_launch("name: study")
    register(store, tmp_path)
    store.client._tracking_client.store.engine.dispose()
    moved = (tmp_path / "output").rename(tmp_path / "moved")
    again = StudyExperiment(embedded_uri(moved), "study", moved, create=False)
    again.follow_move(moved)
    with mlflow_at(again.uri):
        assert Static.load("models:/net/1").as_dict() == {"near": 1.5, "far": 0.5}


@pytest.mark.parametrize("name", ["a/b", "a@b", "a:b", "", "a b", "a?", "a%20", "x" * 201])
def test_a_name_that_means_something_else_in_an_address_is_refused(store, tmp_path, name):
    with pytest.raises(ExportError, match=r"^--register: expected a name of letters, digits and _ \. -, got '"):
        register(store, tmp_path, name)


def test_the_name_of_a_network_is_refused(store, tmp_path):
    """Its next version would go to whoever loads the latest one."""
    store.start_launch("name: study")
    MlflowClient(store.uri).create_registered_model("net")
    with pytest.raises(ExportError, match=r"--register: expected a new name, or .* tag gradsweep\.kind = weights"):
        register(store, tmp_path)
    assert MlflowClient(store.uri).search_model_versions("name = 'net'") == []


def test_without_a_launch_there_is_no_run_to_keep_the_file_with(store, tmp_path):
    with pytest.raises(ExportError, match="--register: no launch of study 'study' is left in MLflow"):
        register(store, tmp_path)


def test_a_database_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(TrackingError, match=r"holds no study; run it first"), mlflow_at(embedded_uri(tmp_path)):
        pass
    assert list(tmp_path.iterdir()) == []
