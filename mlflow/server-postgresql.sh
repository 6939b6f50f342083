#!/bin/sh
# The MLflow tracking server of a team: PostgreSQL for runs, one shared store for artifacts.
#
#   PGHOST, PGPORT, PGUSER, PGPASSWORD     the database server, as psql reads them
#   PGDATABASE         an empty database of its own      (mlflow)
#   MLFLOW_BACKEND_STORE_URI       in place of PGDATABASE: postgresql+psycopg://user@host:port/name
#   MLFLOW_ARTIFACTS_DESTINATION   a folder of this machine or s3://bucket/prefix
#                                                        ($HOME/gradsweep-mlflow/artifacts)
#   MLFLOW_HOST        the address to listen on          (127.0.0.1; 0.0.0.0 to serve others)
#   MLFLOW_PORT                                          (5000)
#   MLFLOW_SERVER_ALLOWED_HOSTS    names by which clients call this server; see docs/mlflow-server.md
#   MLFLOW_AUTH_CONFIG_PATH        with it, a user name and password are asked for; see auth.ini
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mlflow=$(command -v mlflow || echo "$here/../.venv/bin/mlflow")
[ -x "$mlflow" ] || {
  echo "server-postgresql.sh: mlflow should be on PATH. Found none: install gradsweep or activate its .venv." >&2
  exit 1
}
python=$(dirname "$mlflow")/python
if [ -x "$python" ] && ! "$python" -c 'import psycopg' 2>/dev/null; then
  echo "server-postgresql.sh: psycopg should be installed beside mlflow. Found none: pip install 'psycopg[binary]'." >&2
  exit 1
fi

artifacts=${MLFLOW_ARTIFACTS_DESTINATION:-$HOME/gradsweep-mlflow/artifacts}
case $artifacts in
  *://*) ;;
  *) mkdir -p "$artifacts" && artifacts=$(cd "$artifacts" && pwd) ;; # absolute: MLflow stores it for good
esac
auth=${MLFLOW_AUTH_CONFIG_PATH:+$(cd "$(dirname "$MLFLOW_AUTH_CONFIG_PATH")" && pwd)/$(basename "$MLFLOW_AUTH_CONFIG_PATH")}

# The URI travels in the environment, not as an option, so that `ps` shows no password. The driver is named,
# because which one a bare postgresql:// means depends on the version of SQLAlchemy.
export MLFLOW_BACKEND_STORE_URI="${MLFLOW_BACKEND_STORE_URI:-postgresql+psycopg:///${PGDATABASE:-mlflow}}"
# With MLflow's default pool of 5 + 10, sixteen writers run into "QueuePool limit reached" after 30 s, an HTTP 400,
# which no client tries again. PostgreSQL allows 100 connections by default; these two together stay below.
export MLFLOW_SQLALCHEMYSTORE_POOL_SIZE="${MLFLOW_SQLALCHEMYSTORE_POOL_SIZE:-40}"
export MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW="${MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW:-40}"
# Without the job runner (which gradsweep does not use) and with one worker the server is 2 processes and
# 0.5 GB instead of 15 and 2.8 GB. The pool is per worker: with more of them, divide it.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_DISABLE_TELEMETRY=true
if [ -n "$auth" ]; then export MLFLOW_AUTH_CONFIG_PATH="$auth"; fi

exec "$mlflow" server \
  --artifacts-destination "$artifacts" \
  --host "${MLFLOW_HOST:-127.0.0.1}" \
  --port "${MLFLOW_PORT:-5000}" \
  --workers 1 \
  ${auth:+--app-name basic-auth}
