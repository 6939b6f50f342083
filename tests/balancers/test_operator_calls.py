"""A step of GradNorm calls few operators more than a static step, whatever the network."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from balancers import GradNorm
from balancers.testing import TinyNetwork

MOST = 80


class Dense(nn.Module):
    """A convolution as shared layer, whose gradients no product gives."""

    def __init__(self, tasks):
        super().__init__()
        self.trunk = nn.Conv2d(2, 4, 3)
        self.heads = nn.ModuleDict({task: nn.Conv2d(4, 1, 1) for task in tasks})
        self.inputs = torch.randn(2, 2, 6, 6)

    @property
    def shared(self):
        return self.trunk

    def losses(self):
        features = self.trunk(self.inputs).relu()
        return {task: head(features).square().mean() for task, head in self.heads.items()}


def calls(step):
    """Operator calls of a step, nested ones too, as `benchmarks.step` counts them.

    Every 32nd step also sums averages and counts, some 60 calls; that is not one of these.
    """
    for _ in range(3):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    return sum(event.name.startswith("aten::") for event in found.events())


@pytest.mark.parametrize("recipe", ["paper", "robust", "direct"])
@pytest.mark.parametrize(
    ("network", "tasks"), [(TinyNetwork, "ab"), (TinyNetwork, "abcdefghij"), (Dense, "abc")], ids=["2", "10", "dense"]
)
def test_a_step_calls_at_most_80_operators_more_than_a_static_step(network, tasks, recipe):
    torch.manual_seed(0)
    tasks, found = list(tasks), network(tuple(tasks))
    balancer = getattr(GradNorm, recipe)(tasks, found.shared, 0.5)
    w = torch.ones(len(tasks))

    def static():
        (w * torch.stack(list(found.losses().values()))).sum().backward()

    more = calls(lambda: balancer.backward(found.losses())) - calls(static)
    assert 0 < more <= MOST
