"""Start MLflow's own server and wait until it responds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import IO


def serve(uri: str, host: str, port: int, log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start MLflow's server over a database: one worker, no job runner, no signals from this terminal.

    SIGTERM ends it together with its worker. The URI is passed in the environment, so that ``ps`` shows no password.
    """
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": uri}
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", host, "--port", str(port)]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def healthy(address: str, server: subprocess.Popen[bytes], seconds: float = 60.0) -> bool:
    """Wait until a started server responds; return false if it ended or took too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
