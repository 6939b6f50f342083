"""W that is frozen, thawed, replaced, sparse, given as a list, or has no gradient of a task yet."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from balancers import BalancerWarning, Frozen, GradNorm
from balancers.shared_layer import SharedLayer
from balancers.testing import TASKS, TinyNetwork
from tests.helpers.no_host import as_device

RECIPES = {"paper": GradNorm.paper, "robust": GradNorm.robust, "direct": GradNorm.direct}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def true_norms(losses, parameters):
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses.values()]
    dense = [[g.to_dense() for g in row if g is not None] for row in rows]
    return torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in dense])


def measured(balancer):
    return balancer.last.gradient_norms / balancer.last.weights


@recipes
def test_w_may_be_frozen_and_thawed(recipe):
    network = TinyNetwork()
    balancer = recipe(TASKS, network.shared, 0.5)
    balancer.backward(network.losses())
    before = balancer.weights
    network.shared.requires_grad_(False)
    network.zero_grad()
    balancer.backward(network.losses())
    assert all(p.grad is not None for p in network.heads.parameters())
    with pytest.warns(BalancerWarning, match="No parameter of the shared layer required grad in 1 steps"):
        assert torch.equal(balancer.weights, before)
    network.shared.requires_grad_(True)
    with torch.no_grad():  # else a balanced start has no reason to move
        next(network.heads.parameters()).mul_(2)
    balancer.backward(network.losses())
    torch.testing.assert_close(measured(balancer), true_norms(network.losses(), list(network.shared.parameters())))
    assert not torch.equal(balancer.weights, before)


@recipes
def test_w_that_is_frozen_at_first_has_its_start_when_it_is_thawed(recipe):
    network = TinyNetwork()
    network.shared.requires_grad_(False)
    balancer = recipe(TASKS, network.shared, 0.5)
    for _ in range(2):
        balancer(network.losses()).backward()
    assert balancer._w.tolist() == [1.0, 1.0, 1.0]
    network.shared.requires_grad_(True)
    balancer(network.losses()).backward()
    if recipe != GradNorm.paper:  # from weights that balance these gradients
        torch.testing.assert_close(balancer.last.gradient_norms, balancer.last.gradient_norms.mean().expand(3))


@recipes
def test_a_part_of_w_that_is_thawed_counts_from_then_on(recipe):
    network = TinyNetwork()
    network.shared.weight.requires_grad_(False)
    balancer = recipe(TASKS, network.shared, 0.5)
    balancer.backward(network.losses())
    torch.testing.assert_close(measured(balancer), true_norms(network.losses(), [network.shared.bias]))
    network.shared.weight.requires_grad_(True)
    balancer.backward(network.losses())
    torch.testing.assert_close(measured(balancer), true_norms(network.losses(), list(network.shared.parameters())))


def test_parameters_of_a_module_may_be_replaced():
    network = TinyNetwork()
    balancer = GradNorm.paper(TASKS, network.shared)
    balancer.backward(network.losses())
    network.shared.weight = nn.Parameter(network.shared.weight.detach() * 2)
    balancer.backward(network.losses())
    torch.testing.assert_close(measured(balancer), true_norms(network.losses(), list(network.shared.parameters())))
    stale = GradNorm.paper(TASKS, [network.shared.weight])
    network.shared.weight = nn.Parameter(network.shared.weight.detach())
    with pytest.raises(ValueError, match="pass the module, not its parameters, if these are replaced"):
        stale.backward(network.losses())


@pytest.mark.parametrize("layer", [nn.Embedding(20, 8, sparse=True), nn.EmbeddingBag(20, 8, sparse=True)])
@pytest.mark.parametrize("settings", [{}, {"one_pass": False}, {"accumulate": 2}])
@recipes
def test_sparse_gradients_have_the_norm_of_the_dense_ones(recipe, settings, layer):
    torch.manual_seed(0)
    a, b = nn.Linear(8, 1), nn.Linear(8, 1)
    rows = torch.randint(0, 20, (16,) if isinstance(layer, nn.Embedding) else (16, 3))
    balancer = recipe(["a", "b"], layer, 0.5, **settings)
    for _ in range(4):
        f = layer(rows)
        losses = {"a": a(f).square().mean(), "b": (b(f) - 3).square().mean()}
        wanted = true_norms(losses, [layer.weight])
        balancer.backward(losses)
    torch.testing.assert_close(measured(balancer), wanted)
    assert layer.weight.grad.is_sparse
    layer.zero_grad()


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("make", [*RECIPES.values(), lambda tasks, W: Frozen(tasks, "gradient", W)])
def test_a_head_that_begins_at_zero_has_its_start_with_its_first_gradient(make, where, monkeypatch):
    def run():
        network = TinyNetwork()
        for parameter in network.heads["far"].parameters():
            parameter.data.zero_()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        balancer = make(list(TASKS), network.shared)
        for step in range(4):
            optimizer.zero_grad()
            balancer.backward(network.losses())
            optimizer.step()
            if step == 0 and make != GradNorm.paper:
                assert balancer._w[1] == 1
        return balancer

    if where == "device":
        with as_device():
            balancer = run()
    else:
        balancer = run()
    with (
        pytest.warns(BalancerWarning, match="`far` had no gradient on the shared layer in 1 steps")
        if isinstance(balancer, GradNorm)
        else pytest.MonkeyPatch.context()
    ):
        weights = balancer.weights
    assert weights.isfinite().all()
    assert weights[1] != 1
    if isinstance(balancer, GradNorm):
        assert not balancer._unbalanced


class TestForms:
    def test_lists_may_mix_modules_and_parameters_and_be_generators(self):
        trunk, more = nn.Linear(4, 8), nn.LayerNorm(8)
        everything = [*trunk.parameters(), *more.parameters()]
        for shared in (
            [trunk, more],
            [trunk, *more.parameters()],
            (p for p in everything),
            [trunk, more, trunk.bias],
        ):
            assert [id(p) for p in SharedLayer(shared).trained()] == [id(p) for p in everything]

    def test_what_is_neither_is_named(self):
        with pytest.raises(ValueError, match="a list with str, int"):
            SharedLayer([nn.Linear(2, 2), "trunk", 3])
        for nothing in (nn.ReLU(), [nn.ReLU(), nn.ReLU()], []):
            with pytest.raises(ValueError, match="shared: expected a module or parameters with at least one"):
                SharedLayer(nothing)


@pytest.mark.parametrize("one_pass", [True, False])
def test_a_reentrant_checkpoint_around_w_is_named_as_the_cause(one_pass):
    """Its layers are not in the graph. Below W it is no hindrance."""
    network = TinyNetwork()

    def losses(first, last):
        features = checkpoint(first, network.inputs.requires_grad_(), use_reentrant=True)
        return {task: head(last(features).tanh()).square().mean() for task, head in network.heads.items()}

    for balancer in (
        GradNorm.direct(TASKS, network.shared, one_pass=one_pass),
        Frozen(TASKS, "gradient", network.shared),
    ):
        with pytest.raises(ValueError, match=r"losses\['near'\]: .* set `use_reentrant=False` where it is around W"):
            balancer.backward(losses(network.trunk, nn.Identity()))
    below = GradNorm.direct(TASKS, network.shared, one_pass=one_pass)
    below.backward(losses(network.trunk[:2], network.shared))
    torch.testing.assert_close(below.last.gradient_norms, below.last.gradient_norms.mean().expand(3))
