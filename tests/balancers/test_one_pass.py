"""One backward pass gives what T passes give, whatever the graph looks like; where it cannot, the fallback does."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from balancers import GradNorm
from balancers.one_pass import OnePass
from balancers.shared_product import Product
from balancers.testing import TASKS, TinyNetwork
from tests.helpers import joined_networks, recommenders  # noqa: F401 - they add to CASES
from tests.helpers.networks import CASES, linear
from tests.helpers.no_host import no_host


@pytest.fixture
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def products(monkeypatch):
    """Record how many tasks each product takes; the results alone do not show which way was used."""
    seen, plain = [], Product.gradients
    monkeypatch.setattr(Product, "gradients", lambda self, parts: seen.append(len(parts)) or plain(self, parts))
    return seen


def step(balancer, found, called):
    for leaf in found.leaves:
        leaf.grad = None
    losses = found.losses()
    if called:
        balancer(losses).backward()
    else:
        balancer.backward(losses)


@pytest.mark.parametrize("called", [False, True], ids=["backward", "called"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_and_norms_are_those_of_plain_autograd(name, called, double_precision):
    torch._dynamo.reset()
    path, make = CASES[name]
    found = make()
    shared = [found.shared] if isinstance(found.shared, nn.Parameter) else found.shared
    W = list(shared.parameters()) if isinstance(shared, nn.Module) else shared
    tasks = list(found.losses())
    balancer = GradNorm(tasks, found.shared, 0.5, initial_weights={t: 1.0 + i for i, t in enumerate(tasks)})
    for _ in range(2):
        step(balancer, found, called)
        losses, w = list(found.losses().values()), balancer.last.weights
        gradients = [leaf.grad for leaf in found.leaves]
        for leaf in found.leaves:
            leaf.grad = None
        sum(weight * loss for weight, loss in zip(w, losses, strict=True)).backward(retain_graph=True)
        for leaf, gradient in zip(found.leaves, gradients, strict=True):
            assert (leaf.grad is None) == (gradient is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, leaf.grad)
        norms = []
        for weight, loss in zip(w, losses, strict=True):
            row = torch.autograd.grad(weight * loss, W, retain_graph=True, allow_unused=True)
            norms.append(torch.cat([g.flatten() for g in row if g is not None]).norm())
        if name != "a hook that scales the gradient of the features":  # see the test below
            torch.testing.assert_close(balancer.last.gradient_norms, torch.stack(norms))
    assert balancer.path.name == path, balancer.path


def test_norms_see_what_a_hook_of_the_users_changes_only_where_autograd_runs_it():
    """``.grad`` always sees it; a linear layer's norms, which come from a product, do not. Said in the docs."""
    torch.manual_seed(0)
    found = CASES["a hook that scales the gradient of the features"][1]()
    balancer = GradNorm(list(found.losses()), found.shared)
    step(balancer, found, called=False)
    hooked = []
    for loss in found.losses().values():
        row = torch.autograd.grad(loss, list(found.shared.parameters()), retain_graph=True)
        hooked.append(torch.cat([g.flatten() for g in row]).norm())
    torch.testing.assert_close(balancer.last.gradient_norms, 10 * torch.stack(hooked))


@pytest.mark.parametrize("shape", [(0, 5), (0, 3, 5)])
def test_an_empty_batch_is_no_error_of_ours(shape):
    W, heads = nn.Linear(5, 6), [nn.Linear(6, 1) for _ in range(3)]
    balancer = GradNorm(list("abc"), W)
    for x in (torch.randn(4, *shape[1:]), torch.randn(shape)):
        features = W(x).relu()
        balancer.backward(
            {t: h(features).sum() + 1 for t, h in zip("abc", (abs_head(h) for h in heads), strict=True)}
        )
    assert balancer.step == 2


def abs_head(head):
    return lambda features: head(features).abs()


def test_a_complex_layer_has_the_gradient_of_plain_autograd():
    torch.manual_seed(0)
    W, heads = nn.Linear(5, 6, dtype=torch.cfloat), [nn.Linear(6, 1, dtype=torch.cfloat) for _ in range(3)]
    x = torch.randn(8, 5, dtype=torch.cfloat)

    def losses():
        features = W(x)
        return {task: head(features).abs().square().mean() for task, head in zip("abc", heads, strict=True)}

    balancer = GradNorm(list("abc"), W)
    for _ in range(2):
        W.zero_grad()
        balancer.backward(losses())
    weighted = sum(w * loss for w, loss in zip(balancer.last.weights, losses().values(), strict=True))
    torch.testing.assert_close(W.weight.grad, torch.autograd.grad(weighted, W.weight)[0])


def sgd(parameter):
    parameter.data.sub_(1e-5 * parameter.grad)


def test_an_optimizer_that_steps_as_soon_as_a_gradient_is_there():
    """``register_post_accumulate_grad_hook``: W must not change before the trunk has been through it."""
    found, plain = (copy.deepcopy(network) for network in [TinyNetwork()] * 2)
    for leaf in [*found.parameters(), *plain.parameters()]:
        leaf.register_post_accumulate_grad_hook(sgd)
    balancer = GradNorm(list(TASKS), found.shared)
    for _ in range(3):
        for network in (found, plain):
            network.zero_grad()
        balancer.backward(found.losses())
        (balancer.last.weights * torch.stack(list(plain.losses().values()))).sum().backward()
    for one, two in zip(found.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", ["linear and relu", "linear on tokens", "linear and gelu", "linear and silu"])
def test_a_linear_layer_takes_the_batched_product(name, products):
    found = CASES[name][1]()
    step(GradNorm(list(found.losses()), found.shared), found, called=False)
    assert products == [4]


def test_large_parts_go_through_in_turn(products):
    found = CASES["many tasks of large features"][1]()
    step(GradNorm(list(found.losses()), found.shared), found, called=False)
    assert sum(products) == 7
    assert len(products) > 1


def test_one_pass_can_be_turned_off_and_gives_the_same():
    def path(one_pass):
        torch.manual_seed(0)
        found = linear(torch.relu)
        balancer = GradNorm.robust(list(found.losses()), found.shared, one_pass=one_pass)
        assert balancer.path is None or not one_pass
        for _ in range(5):
            step(balancer, found, called=False)
        return balancer.weights, balancer.path

    (one, one_path), (two, two_path) = path(True), path(False)
    torch.testing.assert_close(one, two)
    assert one_path.name == "one pass"
    assert two_path == ("task by task", "asked for by `one_pass = False`")


@pytest.mark.parametrize("called", [False, True])
def test_a_step_leaves_no_circle_of_references(called, monkeypatch):
    """The graph, whose hooks hold the pass, must be free when the step ends, not at the next garbage collection."""
    passes, plain = [], OnePass.run
    monkeypatch.setattr(OnePass, "run", lambda self, *given: passes.append(weakref.ref(self)) or plain(self, *given))
    found = linear(torch.relu)
    balancer = GradNorm(list(found.losses()), found.shared)
    gc.disable()
    try:
        step(balancer, found, called)
        assert [one() for one in passes] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("settings", [{}, {"one_pass": False}, {"update_every": 2}, {"accumulate": 2}])
@pytest.mark.parametrize("recipe", [GradNorm.paper, GradNorm.robust])
def test_no_step_but_the_first_waits_for_the_device(recipe, settings):
    network = TinyNetwork()
    balancer = recipe(list(TASKS), network.shared, **settings)
    while balancer.step == 0:
        balancer.backward(network.losses())
    for _ in range(40):
        losses = network.losses()
        with no_host():
            balancer.backward(losses)


def test_steps_between_updates_do_nothing_more_than_a_static_step():
    """With ``update_every`` the other steps take the plain backward pass: no gradient of W apart."""
    network = TinyNetwork()
    balancer = GradNorm(list(TASKS), network.shared, update_every=4)
    balancer.backward(network.losses())
    with torch.profiler.profile() as ours:
        balancer.backward(network.losses())
    with torch.profiler.profile() as plain:
        (balancer.weights * torch.stack(list(network.losses().values()))).sum().backward()
    count = [sum(e.name.startswith("aten::") for e in profile.events()) for profile in (ours, plain)]
    assert count[0] <= count[1] + 4, count


def test_a_graph_that_was_freed_says_so():
    network = TinyNetwork()
    loss = GradNorm(list(TASKS), network.shared)(network.losses())
    loss.backward()
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()
