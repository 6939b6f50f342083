"""Uncertainty weighting against autograd of Kendall's loss."""

import pytest
import torch

from balancers import BalancerWarning, Uncertainty
from balancers.testing import TASKS, TinyNetwork
from balancers.torchjd_methods import torchjd_balancer


def test_follows_autograd_of_the_published_loss():
    network, twin = TinyNetwork(), TinyNetwork()
    balancer = Uncertainty(list(TASKS), lr=0.025)
    s = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=0.025)
    ours = torch.optim.SGD(network.parameters(), lr=1e-5)
    theirs = torch.optim.SGD(twin.parameters(), lr=1e-5)
    for _ in range(40):
        ours.zero_grad()
        balancer.backward(network.losses())
        ours.step()
        optimizer.zero_grad()
        theirs.zero_grad()
        L = torch.stack(list(twin.losses().values()))
        ((-s).exp() * L + s).sum().backward()
        optimizer.step()
        theirs.step()
        torch.testing.assert_close(balancer.weights, (-s).exp().detach(), rtol=1e-4, atol=1e-6)


def test_settles_at_the_inverse_loss():
    x = torch.ones(1, requires_grad=True)
    balancer = Uncertainty(["a", "b"], lr=0.1)
    for _ in range(400):
        balancer.backward({"a": 0.2 * x.sum(), "b": 50 * x.sum()})
    torch.testing.assert_close(balancer.weights, torch.tensor([5.0, 0.02]), rtol=1e-2, atol=0)


def test_a_loss_that_is_not_finite_keeps_w():
    x = torch.ones(1, requires_grad=True)
    balancer = Uncertainty(["a", "b"])
    balancer.backward({"a": x.sum() * float("nan"), "b": x.sum()})
    with pytest.warns(BalancerWarning, match="1 steps"):
        assert torch.equal(balancer.weights, torch.ones(2))


@pytest.mark.parametrize(
    "make", [Uncertainty, lambda tasks: torchjd_balancer("imtl_l", tasks)], ids=["ours", "imtl_l"]
)
def test_a_loss_below_0_keeps_its_weight_which_would_grow_without_end(make):
    x = torch.ones(1, requires_grad=True)
    both, alone = make(["a", "b"]), make(["a"])
    for step in range(40):
        both.backward({"a": 5 * x.sum(), "b": x.sum() - (3 if step > 19 else 0.5)})
        alone.backward({"a": 5 * x.sum()})
        if step == 19:
            before = both.weights
    assert both.weights[1] == before[1] > 1
    torch.testing.assert_close(both.weights[0], alone.weights[0])
    assert both.notes() == [
        "Loss of task `b` was below 0 in 20 steps, where the method has no weight for it: its weight stayed. Add a "
        "constant to the loss."
    ]
