"""Under data parallel training all ranks hold the same weights, and both they and the gradients are those of one
process on the joined batch."""

from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from balancers import GradNorm, Uncertainty
from balancers.testing import TASKS
from balancers.torchjd_methods import torchjd_balancer

STEPS = 10
RECIPES = {
    "paper": GradNorm.paper,
    "robust": GradNorm.robust,
    "direct": GradNorm.direct,
    "uncertainty": lambda tasks, shared, alpha: Uncertainty(tasks),
    "mgda": lambda tasks, shared, alpha: torchjd_balancer("mgda", tasks),
    "dwa": lambda tasks, shared, alpha: torchjd_balancer("dwa", tasks),
}
# The options of DDP for parameters that a step did not use; each wraps the graph differently.
WRAPS = {"plain": {}, "unused": {"find_unused_parameters": True}, "static graph": {"static_graph": True}}
CASES = [
    ("uncertainty", "plain", "backward", {}),
    ("mgda", "plain", "backward", {}),
    ("mgda", "unused", "called", {}),
    ("dwa", "plain", "called", {}),
    ("paper", "plain", "backward", {}),
    ("robust", "plain", "backward", {}),
    ("robust", "plain", "called", {}),
    ("direct", "plain", "backward", {}),
    ("robust", "unused", "backward", {}),
    ("robust", "unused", "called", {}),
    ("robust", "static graph", "backward", {}),
    ("paper", "static graph", "called", {}),
    ("robust", "plain", "backward", {"one_pass": False}),
    ("robust", "joint norm", "backward", {}),
    ("paper", "joint norm", "called", {}),
    ("robust", "plain", "backward", {"update_every": 3}),
    ("robust", "plain", "backward", {"accumulate": 2, "initial_weights": "ones"}),  # balance is of the first part
]
# Every case in double precision, and some as users train.
RUNS = [(case, torch.float64) for case in CASES] + [(case, torch.float32) for case in CASES[4:8]]


class JointNorm(nn.Module):
    """The statistics of SyncBatchNorm on a CPU: those of the joined batch, so that backward passes communicate."""

    def forward(self, x):
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        if ranks == 1:
            return (x - x.mean(0)) / (x.var(0, correction=0) + 0.1).sqrt()
        mean = all_reduce(x.mean(0)) / ranks
        centred = x - mean
        return centred / (all_reduce(centred.square().mean(0)) / ranks + 0.1).sqrt()


class Network(nn.Module):
    """A trunk and three heads; the forward pass gives each head's output."""

    def __init__(self, norm=None):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6))
        self.norm = norm or nn.Identity()
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in TASKS})

    def forward(self, x):
        features = self.norm(self.trunk(x)).relu()
        return {task: head(features) for task, head in self.heads.items()}


@contextmanager
def precision(dtype):
    """Set the default dtype while the block runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def network_of(case):
    return Network(JointNorm() if case[1] == "joint norm" else None)


def batch(step, share):
    """A new batch of 24 for each step, of which a rank sees its share."""
    generator = torch.Generator().manual_seed(step)
    x, y = torch.randn(24, 5, generator=generator), torch.randn(24, 3, generator=generator)
    return x[share], {task: y[share, i : i + 1] for i, task in enumerate(TASKS)}


def train(case, network, model, share):
    """Weights and gradients after every step."""
    recipe, _, style, settings = case
    balancer = RECIPES[recipe](list(TASKS), network.trunk[-1], alpha=0.5, **settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    weights, gradients, parts = [], [], settings.get("accumulate", 1)
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(step, share)
        for part in range(parts):
            rows = slice(part * len(x) // parts, (part + 1) * len(x) // parts)
            outputs = model(x[rows])
            losses = {t: 30.0**i * (outputs[t] - y[t][rows]).square().mean() for i, t in enumerate(TASKS)}
            if style == "called":
                balancer(losses).backward()
            else:
                balancer.backward(losses)
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        optimizer.step()
        weights.append(balancer.weights)
    if settings.get("one_pass", True) and hasattr(balancer, "path"):
        assert balancer.path.name == "one pass", balancer.path
    return torch.stack(weights), torch.stack(gradients)


def work(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        share = slice(rank * 24 // ranks, (rank + 1) * 24 // ranks)
        found = []
        for case, dtype in RUNS:
            with precision(dtype):
                network = network_of(case)
                model = DistributedDataParallel(network, **WRAPS.get(case[1], {}))
                found.append(train(case, network, model, share))
        torch.save(found, f"{folder}/{rank}.pt")
        dist.barrier()  # a rank that leaves first takes the others' connections with it
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree_bit_for_bit_and_with_one_process(tmp_path):
    """With one process in double precision, where rounding, which depends on the processor, cannot add up to much."""
    ranks = 3  # a mean over 2 would be exact in any order
    mp.spawn(work, args=(ranks, str(tmp_path)), nprocs=ranks)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(ranks)]
    for (case, dtype), *of_ranks in zip(RUNS, *found, strict=True):
        for weights, gradients in of_ranks[1:]:
            assert torch.equal(weights, of_ranks[0][0]), case
            assert torch.equal(gradients, of_ranks[0][1]), case
        if dtype == torch.float64:
            with precision(dtype):
                network = network_of(case)
                weights, gradients = train(case, network, network, slice(None))
            torch.testing.assert_close(of_ranks[0][0], weights, rtol=1e-7, atol=1e-9, msg=str(case))
            scale = gradients.abs().max()
            torch.testing.assert_close(of_ranks[0][1] / scale, gradients / scale, rtol=0, atol=1e-8, msg=str(case))


def work_on_gpu(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(Network(nn.BatchNorm1d(6))).cuda()
        model = DistributedDataParallel(network, device_ids=[0])
        balancer = GradNorm.robust(list(TASKS), network.trunk[-1], alpha=0.5)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        for step in range(STEPS):
            optimizer.zero_grad()
            x, y = batch(step, slice(12 * rank, 12 * rank + 12))
            outputs = model(x.cuda())
            balancer.backward({task: (outputs[task] - y[task].cuda()).square().mean() for task in TASKS})
            optimizer.step()
        torch.save((balancer.weights.cpu(), balancer.path.name), f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.slow
def test_sync_batch_norm_on_a_gpu(tmp_path):
    mp.spawn(work_on_gpu, args=(str(tmp_path),), nprocs=2)
    (one, path), (two, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(one, two)
    assert path == "one pass"
    network = Network(nn.BatchNorm1d(6)).cuda()
    balancer = GradNorm.robust(list(TASKS), network.trunk[-1], alpha=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    for step in range(STEPS):
        optimizer.zero_grad()
        x, y = batch(step, slice(None))
        outputs = network(x.cuda())
        balancer.backward({task: (outputs[task] - y[task].cuda()).square().mean() for task in TASKS})
        optimizer.step()
    torch.testing.assert_close(one, balancer.weights.cpu(), rtol=1e-4, atol=1e-5)
