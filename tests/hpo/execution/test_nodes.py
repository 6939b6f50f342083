"""Nodes that share no disk: code by Ray, checkpoints in S3, nodes that die, join late, or never come."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from ray._private import ray_constants
from ray.cluster_utils import Cluster

from tests.helpers.buckets import BIN, KEYS, Bucket
from tests.helpers.runs import MARK, Case, assert_complete, assert_only_stages, main, marked, wait_until

pytestmark = pytest.mark.slow
# A dead node is missed within seconds, a slow one is not taken for dead.
PATIENCE = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_timeout_ms": 10_000}
QUIET = {"RAY_AUTH_MODE": "disabled", "PYTHONFAULTHANDLER": "1"}
PRIVATE = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


class Node:
    """A worker node started from the command line.

    Where this machine allows it, the node has disks of its own in place of ``hidden`` and of Ray's folder, in which
    nodes that start at once on one machine would take the same names.
    """

    def __init__(self, address: str, hidden: Path, cpus: int = 1) -> None:
        self.mark = uuid4().hex
        self._address, self._hidden, self._cpus = address, hidden, cpus

    def start(self) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_", "MLFLOW_"))}
        environment = {**kept, **KEYS, "RAY_AUTH_MODE": "disabled", MARK: self.mark}
        ray = f"exec {BIN}/ray start --address={self._address} --num-cpus={self._cpus} --block --disable-usage-stats"
        hide = "".join(f"mount -t tmpfs none {path} && " for path in (self._hidden, "/tmp/ray") if PRIVATE)
        command = [*(["unshare", "--mount"] if PRIVATE else []), "sh", "-c", hide + ray]
        log = self._hidden.parent / f"node-{self.mark}.log"
        with log.open("wb") as out:
            subprocess.Popen(
                command, env=environment, cwd="/", stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        if not PRIVATE:
            wait_until(lambda: "block forever" in log.read_text(), what="a node")

    def processes(self) -> list[psutil.Process]:
        return [process for process in psutil.process_iter() if marked(process) == self.mark]

    def kill(self) -> None:
        """As when a preempted machine is gone: everything at once."""
        while left := self.processes():
            for process in left:
                process.send_signal(signal.SIGKILL)
            psutil.wait_procs(left, timeout=10)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    found = Bucket(tmp_path_factory.mktemp("moto"))
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """A head that runs no trials."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": PATIENCE})
    yield cluster.address
    cluster.shutdown()


def communicate(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Return the output of a command at its end; if it hangs, fail with the place."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        out, err = process.communicate(timeout=240)
        raise AssertionError(f"it hangs:\n{out}\n{err}") from None


OWN_PROBLEM = '''
from own_parts.steps import steps
from tests.helpers.problems import Counted


class Own(Counted):
    """A user's problem in the folder where the command runs, with a package beside it."""

    epochs = steps()
'''


def test_trials_continue_from_s3_on_other_nodes_with_uploaded_code(bucket, head, tmp_path):
    case = Case(tmp_path / "driver")
    case.study(
        problem={"name": "own_problem:Own", "folder": str(tmp_path / "control")},
        seeds=1,
        checkpoint_seconds=0,
        references=["single_task"],
        static={"points": 2},
        gradnorm={"recipes": ["robust"], "trials": 1},
    )
    (tmp_path / "control").mkdir()
    control = Case(tmp_path / "control")
    control.steer(seconds=0.15)
    (case.folder / "own_parts").mkdir()
    (case.folder / "own_parts" / "steps.py").write_text("def steps():\n    return 4\n")
    (case.folder / "own_parts" / "data.bin").write_bytes(bytes(1000))
    (case.folder / "own_problem.py").write_text(OWN_PROBLEM)
    nodes = [Node(head, case.folder) for _ in range(4)]
    options = ("--address", head, "--storage", bucket.uri, "--wait", "2")
    # The driver comes first: it waits for nodes.
    process = case.start("run", "study.yaml", *options, environment={**KEYS, **QUIET})
    try:
        for node in nodes[:2]:
            node.start()
        wait_until(lambda: process.poll() is not None or len(bucket.checkpoints()) >= 2, what="checkpoints")
        assert process.poll() is None, process.communicate()
        for node in nodes[:2]:
            node.kill()
        for node in nodes[2:]:
            node.start()
        out, err = communicate(process, 600)
    finally:
        process.kill()
        for node in nodes:
            node.kill()
    assert (process.returncode, err) == (0, ""), out
    assert "the cluster has changed: " in out
    assert "continues from its last checkpoint" in out
    runs = case.runs()
    assert_complete(runs, 12)
    resumed = [json.loads(run.data.tags["gradsweep.resumed"]) for run in runs]
    resumed = [steps for steps in resumed if steps]
    assert 1 <= len(resumed) <= 2  # what ran on the dead nodes; one may have been at its end
    assert all(0 < steps[0] < 16 for steps in resumed)
    assert not [
        run for run in runs if run.data.tags["gradsweep.alarms"] != "[]"
    ]  # none says that the storage is not shared
    assert bucket.keys() == []  # a finished study leaves no checkpoints
    assert not list(case.output.rglob("*.ckpt"))


def test_without_a_shared_storage_the_report_says_so(head, tmp_path):
    case = Case(tmp_path / "driver")
    case.study(
        problem={"name": "toy"},
        epochs=1,
        seeds=1,
        static={"points": 2},
        gradnorm={"recipes": ["robust"], "trials": 1},
    )
    node = Node(head, case.folder)
    node.start()
    try:
        done = case.command(
            "run", "study.yaml", "--address", head, "--wait", "2", environment={"RAY_AUTH_MODE": "disabled"}
        )
    finally:
        node.kill()
    assert (done.returncode, done.stderr) == (0, "")
    assert ("name a shared folder or a bucket with --storage" in done.stdout) == PRIVATE


@pytest.mark.chaos
def test_a_node_may_die_while_ray_fetches_what_its_trial_has_reported(tmp_path):
    # Every report is an object of its node's store, as a long trajectory is.
    small = {"max_direct_call_object_size": 1}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": PATIENCE | small})
    (raylet,) = [
        psutil.Process(info.process.pid)
        for info in cluster.head_node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
    ]
    case, control = Case(tmp_path / "driver"), Case(tmp_path / "control")
    case.study(
        problem={"name": "tests.helpers.problems:Steered", "folder": str(control.folder)},
        seeds=1,
        static={"points": 2},
        gradnorm={"recipes": ["robust"], "trials": 1},
    )
    control.steer(block=0)  # every trial, in its second epoch
    node, other = (Node(cluster.address, case.folder) for _ in range(2))
    node.start()
    options = ("--address", cluster.address, "--storage", str(control.folder), "--wait", "2")
    process = case.start("run", "study.yaml", *options, environment=QUIET)
    try:
        wait_until(lambda: (control.folder / "blocked").exists(), what="a trial in its second epoch")
        worker = psutil.Process(int((control.folder / "starts").read_text().split()[1]))
        raylet.suspend()  # the driver cannot fetch what comes now
        control.steer()
        wait_until(lambda: len((control.folder / "devices").read_text().split()) >= 2, what="its second evaluation")
        wait_until(lambda: worker.cpu_percent(interval=0.5) < 5, what="a worker that waits to be asked on")
        node.kill()
        raylet.resume()
        other.start()
        out, err = communicate(process, 600)
    finally:
        raylet.resume()
        process.kill()
        node.kill()
        other.kill()
        cluster.shutdown()
    assert process.returncode == 0, err
    assert "Traceback" not in err  # Ray itself writes a line of its own about the loss
    assert "a node died with a report on its way; every trial continues from its last checkpoint" in out
    assert_complete(case.runs(), 12)


def test_a_trial_too_large_for_every_node_is_refused_after_the_wait(head, tmp_path, capsys, monkeypatch):
    case = Case(tmp_path)
    case.study(resources={"cpu": 3})
    monkeypatch.chdir(tmp_path)
    code, out, err = main(capsys, "run", "study.yaml", "--address", head, "--wait", "0.05")
    assert code == 2
    assert_only_stages(out)
    assert err == (
        "error: resources.cpu: expected at most 0, the most that a node of this cluster has (1 node(s)), "
        "got 3 CPU per trial; if more nodes are to come: --wait MINUTES\n"
    )
