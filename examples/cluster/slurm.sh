#!/bin/bash
# A study over the nodes of a Slurm allocation: Ray's head and the driver on the first node, Ray on the others.
#
#   sbatch examples/cluster/slurm.sh studies/census-quick.yaml
#   sbatch --nodes=8 --gpus-per-node=4 examples/cluster/slurm.sh study.yaml     # options here beat those below
#
#   GRADSWEEP_STORAGE     checkpoints: a folder that all nodes share, or s3://...   (FOLDER_OF_SUBMISSION/gradsweep-storage)
#   MLFLOW_TRACKING_URI   your MLflow server; SQLite's locks do not hold on a shared file system
#   GRADSWEEP_SECRETS     a file of NAME=value lines for the environment, chmod 600     ($HOME/.gradsweep.env)
#   HEAD_CPUS             cores of the first node that train; 0 leaves it to head and driver     (all but one)
#   HEAD_IP               by which the other nodes reach the first     (what `hostname --ip-address` says)
#
# docs/slurm.md explains it. Checked against the manuals of Slurm 22.05 and Ray 2.60; not run on a Slurm cluster.
#SBATCH --job-name=gradsweep
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@120
set -euo pipefail

study=${1:?usage: sbatch slurm.sh STUDY.yaml}
secrets=${GRADSWEEP_SECRETS:-$HOME/.gradsweep.env}
# shellcheck disable=SC1090,SC1091  # the user's files
{
  if [ -r "$secrets" ]; then set -a && . "$secrets" && set +a; fi
  if [ -r .venv/bin/activate ]; then . .venv/bin/activate; fi
}
: "${MLFLOW_TRACKING_URI:?should name your MLflow server, see docs/mlflow-server.md}"
export MLFLOW_TRACKING_URI
export GRADSWEEP_STORAGE="${GRADSWEEP_STORAGE:-$PWD/gradsweep-storage}"

# Whoever reaches Ray's ports runs code as you, so Ray asks for a token that only this job knows.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS

cpus=${SLURM_CPUS_PER_TASK:-1}
head_cpus=${HEAD_CPUS:-$((cpus > 1 ? cpus - 1 : 1))}
ip=${HEAD_IP:-$(hostname --ip-address | cut -d' ' -f1)}
port=$((20000 + SLURM_JOB_ID % 10000)) # another job's on the same node has another
case $SLURM_JOB_NUM_NODES:${HEAD_IP:-found}:$ip in
  1:*) ;;
  *:found:127.*) echo "slurm.sh: the first node calls itself $ip, which no other node reaches: set HEAD_IP" >&2 && exit 2 ;;
esac

share=(--num-cpus="$head_cpus") # and the GPUs that Slurm has given, which Ray counts
if [ "$head_cpus" = 0 ]; then share+=(--num-gpus=0); fi
ray start --head --node-ip-address="$ip" --port="$port" --include-dashboard=false "${share[@]}" --block &
head=$!
trap 'kill "$head" 2>/dev/null || true' EXIT

until (exec 3<>"/dev/tcp/$ip/$port") 2>/dev/null; do
  kill -0 "$head" 2>/dev/null || { echo "slurm.sh: Ray's head did not start on $ip:$port" >&2 && exit 1; }
  sleep 1
done

# One task on each other node; --no-kill and --wait=0 keep the others when one of them ends. srun no longer takes
# --cpus-per-task from sbatch.
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
  srun --relative=1 --nodes="$others" --ntasks="$others" --ntasks-per-node=1 --cpus-per-task="$cpus" \
    --no-kill --kill-on-bad-exit=0 --wait=0 \
    ray start --address="$ip:$port" --num-cpus="$cpus" --block &
fi

gradsweep run "$study" --address "$ip:$port" --wait 10 &
driver=$!

# shellcheck disable=SC2317  # called by the traps
stop() {
  trap '' TERM USR1 # a second signal would end the driver before it has told MLflow
  kill -TERM "$driver" 2>/dev/null || true
}
again=no
trap stop TERM
trap 'again=yes; stop' USR1

code=0
wait "$driver" || code=$?
while kill -0 "$driver" 2>/dev/null; do # a trap ends `wait`
  code=0
  wait "$driver" || code=$?
done

# The time limit is near and trials are left: to the queue again, where the same script goes on.
if [ "$again" = yes ] && [ "$code" = 130 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
