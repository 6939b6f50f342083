"""A Ray cluster that can run a trial: a running one, or one that this process starts."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.autoscaler.sdk import request_resources

from hpo.core.environment import close_local_ray
from hpo.core.errors import ClusterError, ShippingError
from hpo.core.uris import redacted, shown
from hpo.execution.code_upload import stage
from hpo.execution.ray_private import SUBMITTED_JOB
from hpo.execution.ray_start import start_ray
from hpo.study.spec import Resources

KNOCK_SECONDS = 5.0  # for the head of a cluster to answer


class Cluster(NamedTuple):
    """A description of a cluster, and whether its Ray was running before and is left running."""

    words: str
    left_running: bool


def _unannounced(text: str) -> AbstractContextManager[None]:
    del text
    return nullcontext()


@contextmanager
def connected(
    address: str | None,
    resources: Resources,
    wait: float = 0.0,
    stage: Callable[[str], AbstractContextManager[None]] = _unannounced,
) -> Iterator[Cluster]:
    """Connect to a Ray cluster that can run a trial: a running one, or a temporary one on this machine.

    The imported code is uploaded to a running cluster, see `hpo.execution.code_upload`. A Ray that this process has
    started on this machine is used as it is and left running.

    Args:
        address: of a running cluster; ``None`` starts a local one.
        resources: of one trial.
        wait: minutes to wait for nodes that can hold a trial; an autoscaler is asked for them.
        stage: called with a description of each step; returns a context manager that is open during the step.

    Raises:
        ClusterError: it does not answer, or no node can ever hold a trial.
    """
    if ray.is_initialized():
        _refuse_other_ray(address)
        words = f"the Ray of this process, which is left running: {_checked(resources, wait)}"
        yield Cluster(words, left_running=True)
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address is not None and address != "auto":
        _knock(address)
    if address is None:
        close_local_ray()
        quiet |= {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="gradsweep-code-") as folder:
        if address is not None and SUBMITTED_JOB not in os.environ:  # else `ray job submit` has sent it
            quiet["runtime_env"] = {"working_dir": str(_staged(Path(folder)))}
        try:
            with stage(f"connecting to Ray at {address}" if address else "starting Ray on this machine"):
                start_ray(address or "local", **quiet)
        except Exception as error:  # Ray raises many kinds, a bare Exception among them
            where = f"--address: no Ray cluster answers at {address}" if address else "Ray did not start here"
            raise ClusterError(f"{where}: {' '.join(redacted(str(error), address or '').split())}") from None
    try:
        with stage("waiting for a node that can hold a trial") if wait else nullcontext():
            nodes = _checked(resources, wait)
        yield Cluster(nodes, left_running=False)
    finally:
        ray.shutdown()


def _refuse_other_ray(address: str | None) -> None:
    """Refuse the Ray that this process is connected to, unless it is the requested one.

    Raises:
        ClusterError: another address is given, or nodes on other machines do not have the code.
    """
    if address is not None:
        raise ClusterError(
            f"--address: expected none, since this process has initialised Ray already, got {shown(address)!r}; call "
            "ray.shutdown() first, or leave it out to use that Ray"
        )
    others = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]} - {socket.gethostname()}
    if others:
        raise ClusterError(
            "--address: expected the cluster's address, got none: this process has initialised Ray, and other "
            f"machines of that cluster do not have the code ({', '.join(sorted(others))}); call ray.shutdown() first"
        )


def _staged(folder: Path) -> Path:
    try:
        return stage(folder)
    except ShippingError as error:
        raise ClusterError(str(error)) from None


def _knock(address: str) -> None:
    """Check that something answers at the address; Ray itself tries for minutes, with pages of warnings."""
    host, _, port = address.rpartition(":")
    if "/" in address or "@" in address or not host or not port.isdigit():
        raise ClusterError(
            "--address: expected host:port of the cluster's head, or auto on one of its nodes, got "
            f"{shown(address)!r}; the driver needs the cluster's network, so that Ray Client's ray:// will not do"
        )
    try:
        with socket.create_connection((host, int(port)), timeout=KNOCK_SECONDS) as connection:
            if not os.environ.get("RAY_USE_TLS"):  # TLS would need a handshake first
                _greet(connection)
    except (OSError, OverflowError) as error:
        raise ClusterError(f"--address: no Ray cluster answers at {address}: {error}") from None


def _greet(connection: socket.socket) -> None:
    """Check that the server speaks HTTP/2, as every gRPC server does (RFC 9113, 3.4).

    Raises:
        OSError: it does not.
    """
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # no settings
    answer = b""
    while len(answer) < 4:
        part = connection.recv(64)
        if not part:
            break
        answer += part
    if answer[3:4] != b"\x04":  # the type of a frame with its settings
        raise ConnectionError("what listens there is no head of a cluster")


def _checked(resources: Resources, wait: float) -> str:
    """Wait until a node can hold a trial; return a description of the cluster."""
    deadline = time.monotonic() + 60 * wait
    asked = False
    try:
        while not slots(resources):
            if time.monotonic() >= deadline:
                raise ClusterError(_too_small(resources))
            request_resources(bundles=bundles(resources))
            asked = True
            time.sleep(1.0)
    finally:
        if asked:
            request_resources(bundles=[])  # otherwise an autoscaler keeps the node forever
    return cluster_words()


def bundles(resources: Resources) -> list[dict[str, float]]:
    """Return the resources of each process of a trial, as Ray takes them."""
    return [{"CPU": resources.cpu} | ({"GPU": resources.gpu} if resources.gpu else {})] * resources.workers


def _too_small(resources: Resources) -> str:
    """Return the error for a cluster that cannot hold a trial."""
    nodes = alive_nodes().values()
    if places := _places(resources):
        each = ", ".join(f"{need:g} {name}" for name, need in bundles(resources)[0].items())
        return (
            f"resources.workers: expected at most {places}, the processes of {each} that this cluster can hold "
            f"({len(nodes)} node(s)), got {resources.workers}; if more nodes are to come: --wait MINUTES"
        )
    for key, name in (("gpu", "GPU"), ("cpu", "CPU")):
        need, most = getattr(resources, key), max((node.get(name, 0.0) for node in nodes), default=0.0)
        if need > most:
            break
    else:
        key, need, name, most = "gpu", resources.gpu, f"GPU beside {resources.cpu:g} CPU", 0.0
    whole = "trial" if resources.workers == 1 else "process"
    return (
        f"resources.{key}: expected at most {most:g}, the most that a node of this cluster has "
        f"({len(nodes)} node(s)), got {need:g} {name} per {whole}; if more nodes are to come: --wait MINUTES"
    )


def cluster_words() -> str:
    """Describe the cluster: nodes, CPUs, GPUs."""
    nodes = alive_nodes().values()
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    return f"{len(nodes)} node(s), {total['CPU']:g} CPU, {total['GPU']:g} GPU"


def slots(resources: Resources) -> int:
    """Return the number of trials that the cluster can run at once; their processes may be on several nodes."""
    return _places(resources) // resources.workers


def _places(resources: Resources) -> int:
    """Return the number of processes of trials that the cluster can run at once."""
    needs = [(name, need) for name, need in (("CPU", resources.cpu), ("GPU", resources.gpu)) if need]
    return sum(int(min(node.get(name, 0.0) / need for name, need in needs)) for node in alive_nodes().values())


def alive_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of each node that is alive, by its id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
