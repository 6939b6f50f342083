"""Sharded models: under `fully_shard` (FSDP2) w and gradients are those of one process on the joined batch.

Anything that is not supported is refused with its cause.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from balancers import Frozen, GradNorm, Static, find_shared_layer
from balancers.shared_layer import SharedLayer
from balancers.testing import TASKS
from balancers.torch_private import whole_parameters
from balancers.torchjd_methods import torchjd_balancer

try:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
except ImportError:  # before torch 2.6
    from torch.distributed._composable.fsdp import fully_shard
    from torch.distributed.fsdp import FullyShardedDataParallel

STEPS = 3


class Network(nn.Module):
    """Three heads on a trunk; W may lie below a normalization, or below a layer that tasks share too."""

    def __init__(self, norm=False, layer_after=False):
        super().__init__()
        torch.manual_seed(0)
        last = [nn.Linear(6, 6)] if layer_after else []
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), *last)
        self.norm = nn.LayerNorm(6) if norm else nn.Identity()
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in TASKS})

    @property
    def shared(self):
        return self.trunk[2]

    def forward(self, x):
        features = self.norm(self.trunk(x)).tanh()
        return {task: head(features) for task, head in self.heads.items()}


def whole_model(network):
    fully_shard(network)


def every_layer(network):
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    fully_shard(network)


def trunk_alone(network):
    fully_shard(network.trunk)


def gradnorm(recipe=GradNorm.robust, **settings):
    return lambda network: recipe(TASKS, network.shared, 0.5, **settings)


@dataclass
class Case:
    """A way of sharding, and a balancer under it."""

    shard: Any
    make: Any
    network: dict = field(default_factory=dict)
    called: bool = False
    lacking: bool = False  # the second half of the batch has no label of a task
    path: str | None = "one pass"


CASES = {
    "whole model": Case(whole_model, gradnorm()),
    "every layer": Case(every_layer, gradnorm(GradNorm.direct)),
    "called": Case(every_layer, gradnorm(), called=True),
    "parameters by name": Case(every_layer, lambda network: GradNorm.paper(TASKS, network.shared.parameters())),
    "normalization after W": Case(every_layer, gradnorm(), {"norm": True}),
    "a task that one rank lacks": Case(every_layer, gradnorm(), lacking=True),
    "a freed layer after W": Case(trunk_alone, gradnorm(), {"layer_after": True}),
    "task by task": Case(every_layer, gradnorm(one_pass=False), path="task by task"),
    "update_every": Case(every_layer, gradnorm(update_every=2)),
    "first-step weights": Case(every_layer, lambda network: Frozen(TASKS, "gradient", network.shared), path=None),
    "a scalarizer": Case(every_layer, lambda network: torchjd_balancer("dwa", TASKS), path=None),
    "static": Case(
        every_layer, lambda network: Static(TASKS, {"near": 3.0, "far": 1.0, "odd": 2.0}), called=True, path=None
    ),
}


def losses_of(outputs, y, labelled=None):
    """Squared errors, times 1, 30 and 900; the second over the labelled rows, exactly 0 where there are none."""
    errors = {task: 30.0**i * (outputs[task] - y[:, i : i + 1]).square() for i, task in enumerate(TASKS)}
    if labelled is not None:
        errors["far"] = errors["far"][labelled]
    return {task: error.sum() / max(1, len(error)) for task, error in errors.items()}


def batch(step, share):
    generator = torch.Generator().manual_seed(step)
    return (torch.randn(24, n, generator=generator)[share] for n in (5, 3))


def average_what_is_not_sharded(network):
    for parameter in network.parameters():
        if dist.is_initialized() and not hasattr(parameter, "full_tensor"):
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def train(case, network, share):
    """Weights after every step, the last gradient, and the path."""
    balancer = case.make(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0 if case.lacking else 1e-3)
    labelled = torch.arange(24)[share] < 12 if case.lacking else None
    weights = []
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(step, share)
        losses = losses_of(network(x), y, labelled)
        if case.called:
            balancer(losses).backward()
        else:
            balancer.backward(losses)
        average_what_is_not_sharded(network)
        optimizer.step()
        weights.append(balancer.weights)
    gradients = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in network.parameters()]
    path = getattr(balancer, "path", None)
    return torch.stack(weights), torch.cat([g.flatten() for g in gradients]), path and path.name


def message(call):
    """The message of the error that a call ends with."""
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def old_fsdp(layer_by_layer, original):
    """The message for a network under FullyShardedDataParallel; its backward pass is not reached."""
    network, settings = Network(), {"use_orig_params": original, "device_id": torch.device("cpu")}
    inner = network.shared
    if layer_by_layer:
        network.trunk[2] = FullyShardedDataParallel(inner, **settings)
    model = FullyShardedDataParallel(network, **settings)
    x, y = batch(0, slice(None))
    return message(lambda: GradNorm.direct(TASKS, inner).backward(losses_of(model(x), y)))


def refusals():
    network, layer = Network(), nn.Linear(8, 6)
    every_layer(network)
    x, y = batch(0, slice(None))
    losses = losses_of(network(x), y)
    assert whole_parameters(), "torch's FSDPParam keeps its tensors elsewhere now; see balancers/torch_private.py"
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)]))
    return {
        "found": list(find_shared_layer(network, losses)),
        "aggregator": message(lambda: torchjd_balancer("mgda", TASKS).backward(losses)),
        "tensor parallel": message(SharedLayer(layer).leaves),
        "FSDP1": {old_fsdp(*flags) for flags in [(False, False), (False, True), (True, False), (True, True)]},
    }


def work(rank, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        found = {}
        for name, case in CASES.items():
            network = Network(**case.network)
            case.shard(network)
            found[name] = train(case, network, slice(12 * rank, 12 * rank + 12))
        torch.save((found, refusals()), f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_weights_and_gradients_are_those_of_one_process(name, ranks, double_precision):
    case = CASES[name]
    (weights, gradients, path), (others, _, _) = (found[name] for found, _ in ranks)
    assert torch.equal(weights, others)
    assert path == case.path
    expected_weights, expected_gradients, _ = train(case, Network(**case.network), slice(None))
    torch.testing.assert_close(weights, expected_weights, rtol=0, atol=1e-9)
    if not case.lacking:  # `fully_shard` averages the gradient over all ranks, also those without the task
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_a_sharded_layer_is_found(ranks):
    assert ranks[0][1]["found"] == ["trunk.2"]


@pytest.mark.slow
def test_what_is_not_supported_is_refused_with_its_cause(ranks):
    refused = ranks[0][1]
    assert refused["aggregator"].startswith("losses: expected parameters that each rank holds whole")
    assert refused["tensor parallel"].endswith("got a DTensor that is placed as (Shard(dim=0),)")
    assert refused["FSDP1"] == {
        "shared: expected parameters that keep their shape: shard the model with "
        "`torch.distributed.fsdp.fully_shard` (FSDP2), got those of FullyShardedDataParallel (FSDP1), which joins "
        "them in one vector"
    }
