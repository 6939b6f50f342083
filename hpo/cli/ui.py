"""``gradsweep ui``"""

from __future__ import annotations

import socket
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from hpo.cli.options import DEFAULT_OUTPUT, Output, TrackingUri, console, interruptible
from hpo.core.errors import OptionError, OutputError
from hpo.core.uris import public, redacted, shown


def ui(
    tracking_uri: TrackingUri = None,
    output: Output = DEFAULT_OUTPUT,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open MLflow's UI on the backend that the studies of this output folder use; Ctrl-C ends it."""
    from hpo.tracking.backend import UI_VIEW, check_answers, embedded_uri, is_server
    from hpo.tracking.server import serve

    if tracking_uri:
        check_answers(tracking_uri)
    if tracking_uri and is_server(tracking_uri):
        console.print(f"The UI is at {shown(tracking_uri)}", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(tracking_uri if shown(tracking_uri) == tracking_uri else public(tracking_uri))
        return
    if tracking_uri is None:
        _check_holds_studies(output)
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OptionError(f"--port: {host}:{port} cannot be listened on: {error.strerror}") from None
    address = f"http://{host}:{port}"
    with suppress(KeyboardInterrupt), interruptible(), tempfile.TemporaryFile() as log:
        uri = tracking_uri or embedded_uri(output)
        server = serve(uri, host, port, log)
        try:
            _show(server, f"{address}/#/experiments?{UI_VIEW}", address, browser)
            if server.wait():
                log.seek(0)
                last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise OutputError(f"MLflow's server ended: {redacted(last, uri)}")
        finally:
            server.terminate()
            server.wait()


def _check_holds_studies(output: Path) -> None:
    import sqlite3

    from hpo.tracking.backend import holds_no_study

    try:
        if not holds_no_study(output / "mlflow.db"):
            return
    except sqlite3.Error as error:
        raise OutputError(f"--output: {output / 'mlflow.db'} cannot be used: {error}") from None
    raise OutputError(f"--output: {output} holds no studies; run one first: gradsweep run STUDY.yaml")


def _show(server: Any, page: str, address: str, browser: bool) -> None:
    """Print the UI's address once it answers."""
    from hpo.tracking.server import healthy

    if healthy(address, server):
        console.print(f"MLflow UI: {page}   (Ctrl-C ends it)", highlight=False, soft_wrap=True)
        if browser:
            webbrowser.open(page)
