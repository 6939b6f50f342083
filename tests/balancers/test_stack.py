"""Balancers that take their steps together have the same results as each alone."""

import copy

import pytest
import torch
from torch.func import functional_call, vmap

from balancers import Equal, Frozen, GradNorm, SingleTask, Stack, Static, Uncertainty
from balancers.torchjd_methods import NAMES, installed, torchjd_balancer

TASKS = ["near", "far", "wide"]
STEPS = 60  # more than a block of the averages


class Network(torch.nn.Module):
    """A trunk of two layers, whose second is W, and three heads with losses of unlike scale."""

    def __init__(self):
        super().__init__()
        self.first, self.shared = torch.nn.Linear(5, 8), torch.nn.Linear(8, 8)
        self.heads = torch.nn.ModuleDict({task: torch.nn.Linear(8, 2) for task in TASKS})

    def forward(self, x):
        features = self.shared(self.first(x).tanh()).relu()
        return {
            task: scale * (head(features) - x[:, :2]).square().mean()
            for (task, head), scale in zip(self.heads.items(), (1.0, 50.0, 0.02), strict=True)
        }


class Skipping(Network):
    """Its second head reads the input too, around the trunk."""

    def forward(self, x):
        features = self.shared(self.first(x).tanh())
        losses = {task: (head(features) - x[:, :2]).square().mean() for task, head in self.heads.items()}
        return losses | {"far": losses["far"] * 3 + self.shared.weight.square().mean()}


def every_kind(W):
    return [
        Static(TASKS, {"near": 1.0, "far": 0.1, "wide": 5.0}),
        Equal(TASKS),
        SingleTask(TASKS, "wide"),
        SingleTask(TASKS, "near"),
        Uncertainty(TASKS),
        Uncertainty(TASKS, lr=0.1),
        Frozen(TASKS, "loss"),
        Frozen(TASKS, "gradient", W),
        GradNorm.paper(TASKS, W, 1.5),
        GradNorm.paper(TASKS, W, 0.0, lr=0.5),  # reaches the floor
        GradNorm.robust(TASKS, W, 0.3),
        GradNorm.robust(TASKS, W, 1.0, lr=0.1),
        GradNorm.annealed(TASKS, W, 0.5, decay_steps=STEPS),
        GradNorm.direct(TASKS, W, 0.0),
        GradNorm.direct(TASKS, W, 0.7),
        GradNorm(TASKS, W, 0.7, update_every=3, freeze_after=20),
        GradNorm(TASKS, W, 0.7, freeze_after=0),
        GradNorm(TASKS, W, 0.7, initial_losses={"near": 1.0, "far": 40.0, "wide": 0.1}),
    ]


def batches(steps=STEPS):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(16, 5, generator=generator, dtype=torch.float64) for _ in range(steps)]


def alone(network, balancer, data, lr=1e-3):
    """Records of each step of one network, trained by SGD."""
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    records = []
    for x in data:
        optimizer.zero_grad()
        balancer.backward(network(x))
        optimizer.step()
        records.append(balancer.last)
    return records


class Together:
    """Networks with stacked parameters, trained by one SGD."""

    def __init__(self, network, balancers, lr=1e-3):
        self.network = network
        self.parameters = {
            name: torch.stack([value.detach()] * len(balancers)).requires_grad_()
            for name, value in network.named_parameters()
        }
        self.stack = Stack(balancers, self.shared())
        self.lr = lr

    def shared(self):
        return [self.parameters["shared.weight"], self.parameters["shared.bias"]]

    def train(self, data):
        optimizer = torch.optim.SGD(self.parameters.values(), lr=self.lr)
        run = vmap(lambda parameters, x: functional_call(self.network, parameters, (x,)), in_dims=(0, None))
        records = []
        for x in data:
            optimizer.zero_grad()
            self.stack.backward(run(self.parameters, x))
            optimizer.step()
            records.append(self.stack.last)
        return records


def networks_of(kind):
    torch.manual_seed(0)
    return kind().double()  # so that what differs is not rounding


@pytest.mark.parametrize("kind", [Network, Skipping])
@pytest.mark.filterwarnings("ignore::balancers.BalancerWarning")
def test_every_balancer_moves_as_it_does_alone(kind):
    network = networks_of(kind)
    together = Together(copy.deepcopy(network), every_kind(list(network.shared.parameters())))
    found = together.train(batches())
    for k, after in enumerate(together.stack.balancers()):
        single = copy.deepcopy(network)
        expected = every_kind(list(single.shared.parameters()))[k]
        for step, (one, all_) in enumerate(zip(alone(single, expected, batches()), found, strict=True)):
            for name in ("weights", "losses", "gradient_norms", "rates"):
                wanted = getattr(one, name)
                wanted = torch.full((3,), torch.nan).double() if wanted is None else wanted
                torch.testing.assert_close(
                    getattr(all_, name)[k],
                    wanted,
                    rtol=1e-6,
                    atol=1e-9,
                    equal_nan=True,
                    msg=lambda text: f"{name} of balancer {k} at step {step}: {text}",  # noqa: B023 - called at once
                )
        assert after.step == expected.step == STEPS
        torch.testing.assert_close(after.weights, expected.weights, rtol=1e-6, atol=1e-9)
        for average in ("arithmetic", "geometric"):
            for start in (0.0, 0.5):
                wanted = expected.mean_weights(average, start)
                torch.testing.assert_close(
                    after.mean_weights(average, start), wanted, rtol=1e-6, atol=1e-9, equal_nan=True
                )
        for name, value in single.named_parameters():
            torch.testing.assert_close(together.parameters[name][k], value, rtol=1e-6, atol=1e-9)


@pytest.mark.filterwarnings("ignore::balancers.BalancerWarning")
def test_states_move_between_a_stack_and_single_balancers():
    network = networks_of(Network)
    data = batches()
    reference = [copy.deepcopy(network) for _ in every_kind(network.shared)]
    trained = [every_kind(single.shared)[k] for k, single in enumerate(reference)]
    for single, balancer in zip(reference, trained, strict=True):
        alone(single, balancer, data[:25])
    together = Together(copy.deepcopy(network), copy.deepcopy(trained))
    for name, stacked in together.parameters.items():
        stacked.data.copy_(torch.stack([dict(single.named_parameters())[name].detach() for single in reference]))
    together.train(data[25:45])
    moved = together.stack.balancers()
    for k, (single, balancer) in enumerate(zip(reference, trained, strict=True)):
        alone(single, balancer, data[25:45])
        torch.testing.assert_close(moved[k].weights, balancer.weights, rtol=1e-6, atol=1e-9)
        state = moved[k].state_dict()
        fresh = every_kind(single.shared)[k]
        fresh.load_state_dict(state)  # what a checkpoint of the stack holds is what a balancer alone reads
        alone(single, fresh, data[45:])
        assert fresh.step == STEPS


def test_one_network_that_is_not_finite_leaves_the_others_alone():
    network = networks_of(Network)
    plain = Together(copy.deepcopy(network), [GradNorm.robust(TASKS, network.shared, a) for a in (0.1, 0.5, 1.0)])
    spoilt = Together(copy.deepcopy(network), [GradNorm.robust(TASKS, network.shared, a) for a in (0.1, 0.5, 1.0)])
    data = batches(10)
    plain.train(data[:5])
    spoilt.train(data[:5])
    spoilt.parameters["first.weight"].data[1] = torch.nan
    plain.train(data[5:])
    spoilt.train(data[5:])
    with pytest.warns(match="5 steps had a loss or gradient that is not finite"):
        first, second, third = (balancer.weights for balancer in spoilt.stack.balancers())
    expected = [balancer.weights for balancer in plain.stack.balancers()]
    torch.testing.assert_close(first, expected[0])
    torch.testing.assert_close(third, expected[2])
    assert bool(second.isfinite().all())


def test_some_networks_of_a_stack_continue_without_the_others():
    network = networks_of(Network)
    alphas = (0.0, 0.4, 0.8)
    whole = Together(copy.deepcopy(network), [GradNorm.direct(TASKS, network.shared, a) for a in alphas])
    part = Together(copy.deepcopy(network), [GradNorm.direct(TASKS, network.shared, a) for a in alphas])
    data = batches(20)
    whole.train(data[:10])
    part.train(data[:10])
    part.parameters = {name: value.detach()[[0, 2]].requires_grad_() for name, value in part.parameters.items()}
    part.stack = part.stack.keep([0, 2], part.shared())
    whole.train(data[10:])
    part.train(data[10:])
    kept, all_ = part.stack.balancers(), whole.stack.balancers()
    torch.testing.assert_close(kept[0].weights, all_[0].weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(kept[1].weights, all_[2].weights, rtol=1e-5, atol=1e-7)


class TestErrors:
    def test_what_cannot_be_stacked_is_refused(self):
        W = torch.nn.Linear(2, 2)
        with pytest.raises(
            ValueError, match=r"balancers: expected objects of Equal, Frozen, GradNorm.*got .*GradNorm"
        ):
            Stack([GradNorm(TASKS, W, accumulate=2)], [])
        with pytest.raises(ValueError, match=r"balancers: expected a list of at least one balancer, got \[\]"):
            Stack([], [])
        with pytest.raises(ValueError, match=r"balancers: expected the same tasks in all, \['near', 'far', 'wide'\]"):
            Stack([Equal(TASKS), Equal(["near"])], [])

    @pytest.mark.skipif(not installed(), reason="torchjd is not installed")
    def test_other_methods_are_refused(self):
        with pytest.raises(ValueError, match="balancers: expected objects of Equal"):
            Stack([torchjd_balancer(NAMES[0], TASKS)], [])

    def test_first_losses_without_a_rate_are_refused(self):
        network = networks_of(Network)
        together = Together(network, [Equal(TASKS), GradNorm.paper(TASKS, network.shared)])
        losses = {task: together.parameters["shared.bias"].sum(1) * 0 - 1 for task in TASKS}
        with pytest.raises(ValueError, match=r"losses\['near'\]: expected a number > 0 in the first step"):
            together.stack.backward(losses)
