"""Weights files as versions in MLflow's model registry.

A version is a folder of the study's latest launch that holds one weights file. It has no flavor, as MLflow calls the
code that loads a network: `balancers.Static.load` reads the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from hpo.core.errors import ExportError, TrackingError
from hpo.core.text import complaint, quoted
from hpo.core.uris import shown
from hpo.tracking.backend import check_answers, holds_no_study, sqlite_path
from hpo.tracking.experiment import StudyExperiment
from hpo.tracking.experiment_base import environment, or_tracking_error

KIND = {"gradsweep.kind": "weights"}  # tag of the registered models that hold weights files
NAME = re.compile(r"[\w.-]{1,200}")  # many others mean something in models:/NAME@ALIAS


def check_name(name: str) -> None:
    """Check the name of a registered model.

    Raises:
        ExportError: it has other characters than `NAME` allows.
    """
    if not NAME.fullmatch(name):
        raise ExportError(complaint("--register", "a name of letters, digits and _ . -", quoted(name)))


def register_weights(store: StudyExperiment, file: Path, name: str, tags: Mapping[str, str], note: str) -> str:
    """Add a weights file to MLflow as the next version of a registered model.

    Args:
        store: the study.
        file: the weights file.
        name: of the registered model, which is created if needed.
        tags: of the version.
        note: the description of the version, in Markdown.

    Returns:
        The address of the version: ``models:/<name>/<version>``.

    Raises:
        ExportError: the name is not valid or is that of a network, or no launch of the study is left.
        TrackingError: MLflow does not accept the version.
    """
    check_name(name)
    launch = store.latest_launch()
    if launch is None:
        raise ExportError(f"--register: no launch of study {store.study!r} is left in MLflow to keep the file with")
    if not _holds_weights(store, name):
        rule = f"a new name, or a registered model with the tag {' = '.join(*KIND.items())}"
        raise ExportError(complaint("--register", rule, f"{name!r}, which holds something else"))
    return _add_version(store, launch, file, name, {**KIND, **tags}, note)


@or_tracking_error
def _holds_weights(store: StudyExperiment, name: str) -> bool:
    """Return whether a registered model is one of weights files; create it if it does not exist."""
    try:
        found = store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        note = "Loss weights found by gradsweep, to load with `balancers.Static.load`."
        store.client.create_registered_model(name, tags=KIND, description=note)
        return True
    return bool(found.tags.items() >= KIND.items())


@or_tracking_error
def _add_version(
    store: StudyExperiment, launch: str, file: Path, name: str, tags: Mapping[str, str], note: str
) -> str:
    folder = f"registered/{uuid4().hex[:12]}"  # the report's copy is replaced by the next report
    artifacts = store.client.get_run(launch).info.artifact_uri  # which the client caches, even if the folder moves
    get_artifact_repository(artifacts, store.uri).log_artifact(str(file), folder)
    # An address within the run stays valid if the embedded database moves with its folder.
    version = store.client.create_model_version(name, f"runs:/{launch}/{folder}", launch, dict(tags), None, note)
    return f"models:/{name}/{version.version}"


@contextmanager
def mlflow_at(uri: str) -> Iterator[None]:
    """Let MLflow's own functions, such as those of `balancers.Static.load`, use a backend that exists.

    Raises:
        TrackingError: it does not answer, or holds no study.
    """
    check_answers(uri)
    path = sqlite_path(uri)
    if path and holds_no_study(path):
        raise TrackingError(f"--tracking-uri: {shown(uri)} holds no study; run it first: gradsweep run")
    with environment("MLFLOW_TRACKING_URI", uri):
        yield
