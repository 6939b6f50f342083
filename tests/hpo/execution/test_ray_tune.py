"""Ray: what a cluster must have, GPUs declared and real, and what is left behind."""

import json
from collections.abc import Iterator

import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from hpo.core.errors import ClusterError
from hpo.execution.ray_cluster import connected
from hpo.study.spec import Resources
from tests.helpers.runs import Case, assert_complete, assert_only_stages, main, wait_until

pytestmark = pytest.mark.slow

UNSEEN = "GPU that torch cannot see on this node and trained on the CPU"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Two nodes, one of which declares a GPU that it does not have."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    nodes.add_node(num_cpus=2, num_gpus=1)
    yield nodes.address
    nodes.shutdown()


@pytest.mark.skipif(torch.cuda.is_available(), reason="declares GPUs that are not there; here is one")
def test_trials_share_a_gpu_and_say_if_torch_cannot_see_it(tmp_path, address):
    gpu = cpu = 0.5
    case = Case(tmp_path)
    case.study(seeds=1, resources={"cpu": cpu, "gpu": gpu})
    finished, printed = case.run(address=address)
    assert finished.complete
    assert "\nsteered: 2 node(s), 4 CPU, 1 GPU; MLflow at " in printed
    assert len([line for line in printed.splitlines() if UNSEEN in line]) == 1
    assert finished.comparison.alarms[-1].startswith("15 trials (single_task/near, ")
    assert UNSEEN in (case.results / "report" / "report.html").read_text()
    runs = case.runs()
    assert_complete(runs, 15)
    for run in runs:
        assert json.loads(run.data.tags["gradsweep.alarms"]) == [f"was given {gpu:g} {UNSEEN}"]
    pids = {line.split()[1] for line in (case.folder / "starts").read_text().splitlines()}
    assert len(pids) <= 1 / gpu


def test_more_than_any_node_has_is_refused_at_once(tmp_path, address, capsys, monkeypatch):
    case = Case(tmp_path)
    monkeypatch.chdir(tmp_path)
    for key, most, wanted in [("gpu", 1, 2), ("cpu", 2, 3)]:
        case.study(resources={key: wanted})
        code, out, err = main(capsys, "run", "study.yaml", "--address", address)
        assert code == 2
        assert_only_stages(out)
        assert err == (
            f"error: resources.{key}: expected at most {most}, the most that a node of this cluster has (2 node(s)), "
            f"got {wanted} {key.upper()} per trial; if more nodes are to come: --wait MINUTES\n"
        )
    case.study(problem="tests.helpers.rank_functions:shared", resources={"workers": 5})
    code, out, err = main(capsys, "run", "study.yaml", "--address", address)
    assert (code, err) == (
        2,
        "error: resources.workers: expected at most 4, the processes of 1 CPU that this cluster can hold "
        "(2 node(s)), got 5; if more nodes are to come: --wait MINUTES\n",
    )
    assert case.starts() == len(case.runs()) == len(case.runs("launch")) == 0


def test_a_cluster_of_this_machine_ends_with_its_use():
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    more = torch.cuda.device_count() + 1
    with (
        pytest.raises(ClusterError, match=rf"expected at most {more - 1}, .* got {more} GPU per trial"),
        connected(None, Resources(gpu=more)),
    ):
        pass
    assert not ray.is_initialized()
    wait_until(lambda: {p.pid for p in psutil.Process().children(recursive=True) if running(p)} <= before)


def running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.gpu
def test_trials_train_on_a_gpu(tmp_path):
    case = Case(tmp_path)
    case.study(seeds=1, resources={"cpu": 1, "gpu": 0.5})
    finished, printed = case.run()
    assert finished.complete
    assert not finished.failed
    assert UNSEEN not in printed
    assert set((case.folder / "devices").read_text().split()) == {"cuda"}
