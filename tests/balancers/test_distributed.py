"""Several ranks hold the same weights as one process on the joined batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from balancers import GradNorm
from balancers.testing import TASKS, TinyNetwork

RECIPES = {"paper": GradNorm.paper, "robust": GradNorm.robust}


def weights_path(recipe, network, average_gradients):
    balancer = RECIPES[recipe](list(TASKS), network.shared, alpha=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    path = []
    for _ in range(20):
        optimizer.zero_grad()
        balancer.backward(network.losses())
        if average_gradients:
            for parameter in network.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        optimizer.step()
        path.append(balancer.weights)
    return torch.stack(path)


def work(rank, ranks, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        for recipe in RECIPES:
            network = TinyNetwork()
            share = slice(rank * 16 // ranks, (rank + 1) * 16 // ranks)
            network.inputs = network.inputs[share]
            network.targets = {task: target[share] for task, target in network.targets.items()}
            torch.save(weights_path(recipe, network, average_gradients=True), f"{folder}/{recipe}-{rank}.pt")
        dist.barrier()  # a rank that leaves first takes the others' connections with it
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_agree_bit_for_bit_and_with_one_process(tmp_path):
    mp.spawn(work, args=(2, str(tmp_path)), nprocs=2)
    for recipe in RECIPES:
        first, second = (torch.load(tmp_path / f"{recipe}-{rank}.pt", weights_only=True) for rank in range(2))
        assert torch.equal(first, second)
        alone = weights_path(recipe, TinyNetwork(), average_gradients=False)
        torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)
