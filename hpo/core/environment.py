"""Environment variables that ray and mlflow read on import. Import this module before them."""

from __future__ import annotations

import os
import secrets
import sys

_DEFAULTS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its replacement prints tables even at verbose=0
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^A worker died or was killed",  # hpo.launch.progress says so in one line
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray adds 15, with which trials starve beside any other program
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # results go to MLflow, not to CSV, JSON and TensorBoard files
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # hpo.execution.ray_tune has one, which does not wait for an epoch to end
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's snapshot is not used: resume reads MLflow
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # with its default a call blocks for minutes when the server is away
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}

for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)


def close_local_ray() -> None:
    """Set an authentication token for a Ray that this process will start. Call it before ray is imported.

    Ray listens on every address of the machine; without a token anyone who reaches it can run code here.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    if "ray" in sys.modules:  # the user's problem has imported it
        os.environ["RAY_AUTH_MODE"] = "disabled"
    else:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
