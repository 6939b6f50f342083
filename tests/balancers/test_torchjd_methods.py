"""The methods of torchjd as balancers: the conformance class, and torchjd's own backward pass as oracle."""

from contextlib import nullcontext

import pytest
import torch
from torchjd.aggregation import MGDA, PCGrad, UPGrad
from torchjd.autojac import jac_to_grad, mtl_backward
from torchjd.scalarization import DWA, FAMO

from balancers import BalancerWarning
from balancers.testing import TASKS, BalancerConformance, TinyNetwork
from balancers.torchjd_methods import AGGREGATORS, SCALARIZERS, torchjd_balancer
from tests.helpers.no_host import no_host

# NashMTL solves up to 20 convex problems in turn at each step, which takes long; its promises hold after fewer.
QUICK = {"nash_mtl": {"optim_niter": 2}}


class ByName(BalancerConformance):
    @pytest.fixture(autouse=True)
    def _choose(self, _name):
        self.name = _name

    def make(self, tasks, shared):
        return torchjd_balancer(self.name, tasks, **QUICK.get(self.name, {}))


@pytest.mark.parametrize("_name", SCALARIZERS)
class TestScalarized(ByName):
    def test_no_step_waits_for_the_device(self):
        network = TinyNetwork()
        balancer = self.make(list(TASKS), network.shared)
        for _ in range(3):
            losses = network.losses()
            with nullcontext() if self.name in ("famo", "geometric_mean") else no_host():  # torchjd's own code waits
                balancer.backward(losses)


@pytest.mark.parametrize("_name", AGGREGATORS)
class TestAggregated(ByName):
    def _others_train(self, network, balancer):
        """Each head follows its own loss; the trunk is a matter of the method."""
        losses = network.losses()
        for task in ("near", "odd"):
            leaves = list(network.heads[task].parameters())
            for p, gradient in zip(leaves, torch.autograd.grad(losses[task], leaves), strict=True):
                torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)
        assert any(bool(p.grad.any()) for p in network.trunk.parameters())

    def test_gradient_is_that_of_the_weighted_sum(self):
        """On what tasks share; each head follows its own loss."""
        network = TinyNetwork()
        balancer = self.make(list(TASKS), network.shared)
        for _ in range(3):
            network.zero_grad()
            balancer.backward(network.losses())
            losses = network.losses().values()
            weighted = sum(w * loss for w, loss in zip(balancer.last.weights, losses, strict=True))
            for leaves, loss in ((network.trunk, weighted), (network.heads, sum(losses))):
                leaves = list(leaves.parameters())
                wanted = torch.autograd.grad(loss, leaves, retain_graph=True)
                for p, gradient in zip(leaves, wanted, strict=True):
                    torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "aggregator"), [("mgda", MGDA()), ("upgrad", UPGrad()), ("pcgrad", PCGrad())], ids=str
)
def test_the_gradient_is_the_one_that_torchjd_fills_in(name, aggregator):
    network = TinyNetwork()
    balancer = torchjd_balancer(name, list(TASKS))
    with torch.random.fork_rng():
        torch.manual_seed(0)  # where our generator starts, for the order in which PCGrad projects
        features = network.trunk(network.inputs).tanh()
        losses = [
            30.0**i * (head(features) - network.targets[task]).square().mean()
            for i, (task, head) in enumerate(network.heads.items())
        ]
        mtl_backward(losses, features=features)
        jac_to_grad(list(network.trunk.parameters()), aggregator)
    wanted = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    balancer.backward(network.losses())
    for p, gradient in zip(network.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)


def test_dwa_weighs_by_the_mean_losses_of_the_two_epochs_before():
    balancer, oracle, x = torchjd_balancer("dwa", ["a", "b"]), DWA(), torch.ones(2, requires_grad=True)
    for epoch in range(4):
        for step in range(3):
            values = torch.tensor([1.0 + epoch * 0.5 + step, 9.0 - epoch])
            balancer.backward({"a": values[0] * x[0], "b": values[1] * x[1]})
            oracle(values)
        assert bool(torch.equal(balancer.last.weights, torch.ones(2))) == (epoch < 2)
        balancer.end_epoch()
        balancer.end_epoch()  # by a framework's callback and by a trial
        oracle.step()
    balancer.backward({"a": x[0] * 1, "b": x[1] * 1})
    leaf = torch.ones(2, requires_grad=True)
    torch.testing.assert_close(balancer.last.weights, torch.autograd.grad(oracle(leaf), leaf)[0])


def test_famo_gets_the_losses_of_the_next_batch():
    balancer, oracle, x = torchjd_balancer("famo", ["a", "b"]), FAMO(2), torch.ones(2, requires_grad=True)
    for step in range(5):
        values = torch.tensor([1.0 / (1 + step), 5.0 - 0.1 * step], requires_grad=True)
        if step:
            oracle.update(values)
        (wanted,) = torch.autograd.grad(oracle(values), values)
        balancer.backward({"a": values[0].detach() * x[0], "b": values[1].detach() * x[1]})
        torch.testing.assert_close(balancer.last.weights, wanted)


def test_imtl_l_learns_scales_that_equalise_the_losses():
    network = TinyNetwork()
    balancer = torchjd_balancer("imtl_l", list(TASKS))
    for _ in range(300):
        balancer.backward(network.losses())
    w, L = balancer.last.weights, balancer.last.losses
    assert w[0] > w[1] > w[2]
    assert (w * L).max() / (w * L).min() < 0.1 * L.max() / L.min()  # at the optimum of e^s L - s all are 1


def test_random_numbers_are_the_balancers_own():
    network = TinyNetwork()
    one, two = (torchjd_balancer("random", list(TASKS)) for _ in range(2))
    before = torch.get_rng_state()
    one.backward(network.losses())
    assert torch.equal(before, torch.get_rng_state())  # the problem's own draws are as without the balancer
    torch.rand(5)
    two.backward(network.losses())
    assert torch.equal(one.last.weights, two.last.weights)
    two.backward(network.losses())
    assert not torch.equal(one.last.weights, two.last.weights)


@pytest.mark.parametrize("name", [*SCALARIZERS, *AGGREGATORS])
def test_a_loss_that_is_infinite_is_kept_from_the_library_and_reported(name):
    network, bad = TinyNetwork(), float("inf")
    balancer = torchjd_balancer(name, list(TASKS))
    balancer.backward(network.losses())
    before = balancer.last.weights
    losses = network.losses()
    balancer.backward({**losses, "far": losses["far"] * bad})
    assert torch.equal(balancer.last.weights, before)
    network.zero_grad()
    balancer.backward(network.losses())
    with pytest.warns(BalancerWarning, match="1 steps"):
        assert balancer.weights.isfinite().all()
    assert balancer.mean_weights().isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", ["dwa", "mgda", "pcgrad"])
def test_a_grad_scaler_changes_nothing(name):
    def path(scale):
        network = TinyNetwork()
        balancer = torchjd_balancer(name, list(TASKS))
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
        for _ in range(5):
            optimizer.zero_grad()
            scaler.scale(balancer(network.losses())).backward()
            scaler.step(optimizer)
            scaler.update()
        return balancer.weights, torch.cat([p.flatten() for p in network.parameters()])

    for left, right in zip(path(1.0), path(2.0**12), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_refuses_hooks_that_would_run_twice():
    network = TinyNetwork()
    network.shared.weight.register_hook(lambda g: 2 * g)
    with pytest.raises(ValueError, match="losses: expected parameters without hooks"):
        torchjd_balancer("mgda", list(TASKS)).backward(network.losses())


def test_refuses_an_unknown_name_and_tasks_that_share_nothing():
    with pytest.raises(ValueError, match="name: expected one of dwa"):
        torchjd_balancer("adam", ["a"])
    x = torch.ones(2, requires_grad=True)
    y = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="losses: expected parameters that at least two losses depend on"):
        torchjd_balancer("mgda", ["a", "b"]).backward({"a": x.sum() * 1, "b": y.sum() * 1})
