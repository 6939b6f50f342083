"""GradNorm with `shared="auto"`."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from balancers import BalancerWarning, GradNorm
from balancers.testing import TASKS, TinyNetwork


@pytest.mark.parametrize("style", ["backward", "call"])
def test_it_trains_as_with_the_weight_that_it_finds(style):
    for recipe in (GradNorm.paper, GradNorm.robust, GradNorm.direct):
        balancers = []
        for auto in (True, False):
            network = TinyNetwork()
            balancer = recipe(TASKS, "auto" if auto else network.shared.weight, 0.5)
            optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
            for _ in range(4):
                optimizer.zero_grad()
                if style == "call":
                    balancer(network.losses()).backward()
                else:
                    balancer.backward(network.losses())
                optimizer.step()
            balancers.append(balancer)
            assert balancer.shared == [network.shared.weight]
        assert torch.equal(balancers[0].weights, balancers[1].weights)
        assert balancers[0].path == balancers[1].path
        assert balancers[0].notes() == [
            "The shared layer was found from the losses: weights of shape (6, 8); see `shared`."
        ]
        assert balancers[1].notes() == []


def test_it_waits_for_a_task_that_is_absent_at_first():
    network = TinyNetwork()
    balancer = GradNorm.robust(TASKS, "auto", 0.5)
    balancer.backward(network.losses() | {"far": None})
    assert balancer.shared == []
    assert balancer.notes()[0].startswith("The shared layer is not found yet: no step had a loss of far")
    balancer.backward({"far": network.losses()["far"]})
    assert balancer.shared == [network.shared.weight]
    balancer.backward(network.losses())
    with pytest.warns(BalancerWarning, match="not found yet, or did not require grad, in 1 steps"):
        assert balancer.weights.isfinite().all()
    assert balancer.last.gradient_norms.gt(0).all()


def test_parameters_may_be_plain_tensors_and_inputs_may_require_grad():
    network = TinyNetwork()
    plain = {f"net.{name}": p.detach().clone().requires_grad_() for name, p in network.named_parameters()}

    class Losses(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network

        def forward(self):
            return self.net.losses()

    balancer = GradNorm.robust(TASKS, "auto")
    balancer.backward(functional_call(Losses(), plain, ()))
    assert balancer.shared == [plain["net.trunk.2.weight"]]
    network.inputs.requires_grad_()
    balancer = GradNorm.robust(TASKS, "auto")
    balancer.backward(network.losses())
    assert balancer.shared == [network.trunk[2].weight]


def test_a_state_is_taken_up():
    network = TinyNetwork()
    balancer, other = (GradNorm.direct(TASKS, "auto", 0.5) for _ in range(2))
    balancer.backward(network.losses())
    other.load_state_dict(balancer.state_dict())
    for one in (balancer, other):
        one.backward(network.losses())
    assert torch.equal(balancer.weights, other.weights)


def test_accumulation():
    network = TinyNetwork()
    balancers = [GradNorm.robust(TASKS, shared, accumulate=2) for shared in ("auto", network.shared.weight)]
    for balancer in balancers:
        for _ in range(4):
            balancer.backward(network.losses())
    assert torch.equal(balancers[0].weights, balancers[1].weights)


def test_another_word_is_refused():
    for wrong in ("last", None, 3):
        with pytest.raises(ValueError, match="shared: expected a module, a parameter"):
            GradNorm(TASKS, wrong)
