"""A study's experiment in MLflow: open it, create it if needed, and search its runs."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment as MlflowExperiment
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from hpo import __version__
from hpo.core.errors import LaunchLostError, TrackingError
from hpo.core.uris import shown
from hpo.core.user_calls import raise_interrupt
from hpo.tracking.backend import check_answers, first_line, holds_no_study, is_server, sqlite_path
from hpo.tracking.database import move_artifacts, prepare_database, write_ahead

PAGE = 1000  # runs that a request reads

logging.getLogger("alembic").setLevel(logging.ERROR)
logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that we report in one line

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound="Experiment")


def or_tracking_error(method: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]:
    """Raise a backend's error as one line without the URI's password, before any trial runs."""

    @wraps(method)
    def asked(store: E, /, *arguments: P.args, **named: P.kwargs) -> R:
        try:
            return method(store, *arguments, **named)
        except LaunchLostError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have their own
            raise_interrupt(error)
            line = first_line(error, store.uri)
            raise TrackingError(f"--tracking-uri: {shown(store.uri)} cannot be used: {line}") from None

    return asked


class Experiment:
    """The experiment of one study.

    Args:
        uri: of the backend: ``http(s)://``, ``sqlite:///``, ``postgresql://``, ...
        study: name of the study and of the experiment.
        output: folder in whose ``artifacts/`` a local backend stores artifacts.
        create: create database and experiment if they do not exist.
        making: called before an SQLite database is created, which takes seconds.

    Raises:
        TrackingError: the backend does not respond or cannot be used, or the study does not exist and ``create`` is
            false.
    """

    def __init__(
        self, uri: str, study: str, output: Path, create: bool = True, making: Callable[[], object] = str
    ) -> None:
        self.uri, self.study = uri, study
        self._forget()
        where = shown(uri)
        check_answers(uri)
        try:
            if path := sqlite_path(uri):
                if create:
                    prepare_database(path, (output / "artifacts").resolve(), making)
                elif holds_no_study(path):
                    raise TrackingError(f"--tracking-uri: {where} holds no study; run it first: gradsweep run")
            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name(study)
            if found is None and create:
                found = self._create(output)
        except TrackingError:
            raise
        except Exception as error:  # SQLAlchemy, requests and MLflow each have their own
            raise_interrupt(error)
            raise TrackingError(f"--tracking-uri: {where} cannot be used: {first_line(error, uri)}") from None
        if found is None:
            raise TrackingError(f"--tracking-uri: {where} holds no study {study!r}; run it first: gradsweep run")
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"--tracking-uri: the experiment {study!r} was deleted in MLflow; restore or rename it"
            )
        self.experiment_id: str = found.experiment_id
        self._location: str = found.artifact_location

    def _forget(self) -> None:
        """Initialise a subclass's record of its runs; called by the constructor."""

    def _create(self, output: Path) -> MlflowExperiment:
        location = None  # a server has its own artifact store
        if not is_server(self.uri):
            location = (output / "artifacts" / self.study).resolve().as_uri()
        if path := sqlite_path(self.uri):
            write_ahead(path)
        tags = {"gradsweep.version": __version__, "mlflow.experimentKind": "custom_model_development"}
        with contextlib.suppress(MlflowException):  # another launch may have created it
            self.client.create_experiment(self.study, artifact_location=location, tags=tags)
        found = self.client.get_experiment_by_name(self.study)
        assert found is not None
        return found

    @or_tracking_error
    def follow_move(self, output: Path) -> None:
        """Look for artifacts beside the embedded database, even after its folder was moved or copied.

        Call it only while holding the study's lock, because a running launch uses the previous location.
        """
        path, here = sqlite_path(self.uri), (output / "artifacts" / self.study).resolve()
        if path is None or path.parent.resolve() != output.resolve() or not here.is_dir():
            return
        if self._location != here.as_uri():
            move_artifacts(path, self.experiment_id, self._location, here.as_uri())
            self._location = here.as_uri()

    def fault(self, error: Exception) -> str:
        """Return an error of the backend in one line."""
        return f"{type(error).__name__}: {first_line(error, self.uri)}"

    def _create_run(self, **content: Any) -> Run:
        """Create a run without retries: if a server dies before it responds, a retry would create a second run."""
        with environment("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"):
            return self.client.create_run(self.experiment_id, **content)

    def _search(self, kind: str, status: str = "") -> list[Run]:
        """Return the runs of a kind; with a status, only those that have it."""
        return list(self._each(kind, status))

    def _each(self, kind: str, status: str = "") -> Iterator[Run]:
        """Yield the runs of a kind, of which only a page is held at once: thousands take much memory."""
        wanted = f"tags.`gradsweep.kind` = '{kind}'" + (f" and attributes.status = '{status}'" if status else "")
        token: str | None = ""
        while token is not None:
            with collection_paused():
                page = self.client.search_runs(
                    [self.experiment_id],
                    wanted,
                    run_view_type=ViewType.ACTIVE_ONLY,
                    max_results=PAGE,
                    page_token=token or None,
                )
            token = page.token or None
            yield from page


@contextlib.contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's search for reference cycles, which takes most of the time of reading thousands of runs.

    MLflow makes some sixty objects per run, all of which are kept until a page is complete.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable that MLflow reads at each call."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def now() -> int:
    """Return milliseconds since the epoch."""
    return int(time.time() * 1000)
