#!/bin/sh
# One MLflow tracking server for one machine: SQLite for runs, a folder for artifacts, both below MLFLOW_DATA.
#
#   MLFLOW_DATA        where everything is kept          ($HOME/gradsweep-mlflow)
#   MLFLOW_HOST        the address to listen on          (127.0.0.1: this machine alone)
#   MLFLOW_PORT                                          (5000)
#   MLFLOW_SERVER_ALLOWED_HOSTS    names by which clients call this server; see docs/mlflow-server.md
#   MLFLOW_AUTH_CONFIG_PATH        with it, a user name and password are asked for; see auth.ini
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mlflow=$(command -v mlflow || echo "$here/../.venv/bin/mlflow")
[ -x "$mlflow" ] || {
  echo "server-sqlite.sh: mlflow should be on PATH. Found none: install gradsweep or activate its .venv." >&2
  exit 1
}

data=${MLFLOW_DATA:-$HOME/gradsweep-mlflow}
mkdir -p "$data/artifacts"
data=$(cd "$data" && pwd) # absolute: MLflow stores these paths for good
auth=${MLFLOW_AUTH_CONFIG_PATH:+$(cd "$(dirname "$MLFLOW_AUTH_CONFIG_PATH")" && pwd)/$(basename "$MLFLOW_AUTH_CONFIG_PATH")}

# Without the job runner (which gradsweep does not use) and with one worker the server is 2 processes and
# 0.5 GB instead of 15 and 2.8 GB, and no slower on SQLite, which takes one writer at a time.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_DISABLE_TELEMETRY=true
if [ -n "$auth" ]; then export MLFLOW_AUTH_CONFIG_PATH="$auth"; fi

# MLflow makes its tables by migrations that SQLite does not take as one: a kill in between would leave a file that no
# later start can use. So a new database is made under another name.
if [ ! -s "$data/mlflow.db" ]; then
  rm -f "$data"/mlflow.new.db*
  "$mlflow" db upgrade "sqlite:///$data/mlflow.new.db"
  mv "$data/mlflow.new.db" "$data/mlflow.db"
fi

cd "$data" # what MLflow writes to its working directory lands here
exec "$mlflow" server \
  --backend-store-uri "sqlite:///$data/mlflow.db" \
  --artifacts-destination "$data/artifacts" \
  --host "${MLFLOW_HOST:-127.0.0.1}" \
  --port "${MLFLOW_PORT:-5000}" \
  --workers 1 \
  ${auth:+--app-name basic-auth}
