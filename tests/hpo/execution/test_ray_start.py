"""Ray's start: what of its private code we rely on, patience, and signals that come in the middle."""

from __future__ import annotations

import inspect
import os
import signal
import socket
import threading

import pytest
import ray
from ray._private import node, services, utils, worker

from hpo.core.errors import ClusterError
from hpo.execution import ray_cluster
from hpo.execution.ray_cluster import _knock, connected
from hpo.execution.ray_start import _patient, start_ray
from hpo.study.spec import Resources
from tests.helpers.runs import Case, assert_only_stages, wait_until


def test_the_functions_of_ray_that_we_replace_still_exist():
    """After an upgrade of Ray: hpo/execution/ray_start.py replaces these two functions while `ray.init` runs."""
    assert "ray._private.services.get_node(" in inspect.getsource(node.Node.__init__)
    assert "except RuntimeError" in inspect.getsource(node.Node.__init__)
    assert "ray._private.utils.set_sigterm_handler(" in inspect.getsource(worker.init)
    assert list(inspect.signature(services.get_node).parameters) == ["gcs_address", "node_id"]


def test_a_node_that_is_slow_to_come_up_is_waited_for(monkeypatch):
    asked = []

    def late(address: str, number: str) -> dict[str, str]:
        asked.append((address, number))
        if len(asked) < 3:
            raise RuntimeError("no such node yet")
        return {"node": number}

    monkeypatch.setattr(services, "get_node", late)
    with _patient(60.0, []):
        assert services.get_node("address", "id") == {"node": "id"}
    assert asked == [("address", "id")] * 3
    asked.clear()
    with _patient(0.0, []), pytest.raises(RuntimeError, match="no such node yet"):
        services.get_node("address", "id")
    assert services.get_node is late


def test_a_signal_ends_the_wait(monkeypatch):
    def never(address: str, number: str) -> None:
        raise RuntimeError("no such node yet")

    monkeypatch.setattr(services, "get_node", never)
    with _patient(60.0, [signal.SIGTERM]), pytest.raises(InterruptedError):
        services.get_node("address", "id")


def test_whatever_ray_raises_is_one_line(monkeypatch):
    def slow(address: str, number: str) -> None:
        raise Exception("The current node timed out during startup.\nThis could happen\n\nbecause")

    monkeypatch.setattr(services, "get_node", slow)
    with pytest.raises(ClusterError) as refused, connected(None, Resources()):
        pass
    assert str(refused.value) == (
        "Ray did not start here: The current node timed out during startup. This could happen because"
    )
    assert not ray.is_initialized()


def test_signal_handlers_are_restored_and_a_signal_stops_a_started_ray(monkeypatch):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    init, handler = ray.init, utils.set_sigterm_handler

    def interrupted(**options: object) -> None:
        init(**options)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    monkeypatch.setattr(ray, "init", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_ray("local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    assert not ray.is_initialized()
    assert {number: signal.getsignal(number) for number in before} == before
    assert utils.set_sigterm_handler is handler


def test_workers_have_the_niceness_of_the_command():
    start_ray("local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
    finally:
        ray.shutdown()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_server_that_is_no_cluster_is_refused_at_once(answer, monkeypatch):
    monkeypatch.setattr(ray_cluster, "KNOCK_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=lambda: answer and listener.accept()[0].sendall(answer))
        thread.start()
        with pytest.raises(ClusterError, match=f"^--address: no Ray cluster answers at {address}: "):
            _knock(address)
        thread.join()


def test_a_signal_is_raised_at_once_while_connecting_to_a_cluster(monkeypatch):
    def silent(**options: object) -> None:
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
        pytest.fail("it went on")

    monkeypatch.setattr(ray, "init", silent)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        start_ray("127.0.0.1:1")
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_a_signal_while_the_command_starts_ray_ends_it_cleanly(tmp_path):
    case = Case(tmp_path, workers=1)
    case.study()
    process = case.start("run", "study.yaml", start_new_session=True)
    lines = [process.stdout.readline()]
    while "starting Ray" not in lines[-1]:
        assert lines[-1], process.communicate()
        lines.append(process.stdout.readline())
    wait_until(lambda: len(case.processes()) > 1, 60, "Ray's first process")
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, (lines, out, err)
    assert err == ""
    *stages, empty, stopped = out.splitlines()
    assert_only_stages("\n".join(stages))
    assert (empty, stopped) == ("", "Stopped. Finished trials are kept; the same command continues the study.")
    wait_until(lambda: not case.processes(), 30, "Ray to end")
