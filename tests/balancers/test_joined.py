"""Heads whose outputs are joined in one tensor: what the one backward pass costs, and steps unlike the others."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from balancers import GradNorm
from balancers.losses import arrange
from balancers.measured_backward import measured_backward
from balancers.one_pass import OnePass
from balancers.shared_gradients import TaskGradients
from balancers.shared_product import Product
from tests.helpers.joined_networks import heads
from tests.helpers.networks import CASES
from tests.helpers.no_host import as_device, no_host

TASKS = ["near", "far", "wide", "odd"]
COLUMNS, VECTOR = "columns by select", "a vector of losses by squares"
ONE_LAYER = "one head layer, a vector of losses by squares"


class Columns(nn.Module):
    """A linear W and towers; the loss of each task by its column, or an element of a vector."""

    def __init__(self, vector=False):
        super().__init__()
        found = heads(len(TASKS))
        self.shared, self.towers, self.vector = found.W, found.towers, vector
        self.register_buffer("x", found.x)
        self.register_buffer("y", torch.randn(8, len(TASKS)))

    def forward(self, x):
        features = self.shared(x).relu()
        out = torch.cat([tower(features) for tower in self.towers], 1)
        if self.vector:
            return dict(zip(TASKS, (out - self.y).square().mean(0).unbind(), strict=True))
        return {task: (10**i * (out[:, i] - self.y[:, i])).square().mean() for i, task in enumerate(TASKS)}

    def losses(self):
        return self(self.x)


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


kinds = pytest.mark.parametrize("vector", [False, True], ids=["columns", "vector"])


def trained(network, one_pass, hidden=lambda k: (), called=False, **settings):
    """Weights and gradients after some steps; ``hidden`` names the tasks that are absent from step k."""
    network = copy.deepcopy(network)
    balancer = GradNorm.robust(TASKS, network.shared, 0.5, one_pass=one_pass, **settings)
    records = []
    for k in range(6):
        network.zero_grad()
        losses = {task: loss for task, loss in network.losses().items() if task not in hidden(k)}
        if called:
            balancer(losses).backward()
        else:
            balancer.backward(losses)
        records.append([balancer._w.clone(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)])
    assert balancer.path.name == ("one pass" if one_pass else "task by task"), balancer.path
    return records


@kinds
@pytest.mark.parametrize("called", [False, True], ids=["backward", "called"])
def test_tasks_may_be_absent_from_a_step(vector, called):
    network = Columns(vector)
    hidden = lambda k: TASKS[k % 4 :: 3] if k else ()  # noqa: E731
    one, other = (trained(network, one_pass, hidden, called) for one_pass in (True, False))
    torch.testing.assert_close(one, other)


@kinds
def test_passes_that_are_accumulated_are_one_step(vector):
    network = Columns(vector)
    one, other = (trained(network, one_pass, accumulate=2) for one_pass in (True, False))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("place", [as_device, no_host], ids=["device", "no reading"])
@pytest.mark.parametrize(
    "name", [COLUMNS, VECTOR, ONE_LAYER, "columns by index of a list", "columns by mask of rows"]
)
def test_no_step_but_the_first_waits_for_the_device(name, place):
    found = CASES[name][1]()
    balancer = GradNorm(list(found.losses()), found.shared)
    balancer.backward(found.losses())
    for _ in range(3):
        losses = found.losses()
        with place():
            balancer.backward(losses)
    assert balancer.step == 4


@pytest.mark.parametrize("name", [COLUMNS, VECTOR, ONE_LAYER])
def test_a_step_leaves_no_circle_of_references(name, monkeypatch):
    passes, plain = [], OnePass.run
    monkeypatch.setattr(OnePass, "run", lambda self, *given: passes.append(weakref.ref(self)) or plain(self, *given))
    found = CASES[name][1]()
    balancer = GradNorm(list(found.losses()), found.shared)
    gc.disable()
    try:
        balancer.backward(found.losses())
        assert [one() for one in passes] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", [COLUMNS, VECTOR, ONE_LAYER, "columns of one layer behind a hidden one on tokens"])
def test_gradients_of_a_linear_w_come_from_one_product(name, monkeypatch):
    seen, plain = [], Product.gradients
    monkeypatch.setattr(Product, "gradients", lambda self, parts: seen.append(len(parts)) or plain(self, parts))
    found = CASES[name][1]()
    GradNorm(list(found.losses()), found.shared).backward(found.losses())
    assert seen == [3]


class Counted(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.products += function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
        return function(*args, **kwargs or {})


@kinds
def test_each_head_runs_back_once(vector):
    """Not once for each task: a step has the products of a static one, and one for all gradients of W."""
    network = Columns(vector)
    balancer = GradNorm(TASKS, network.shared)
    balancer.backward(network.losses())
    with Counted() as static:
        torch.stack(list(network.losses().values())).sum().backward()
    with Counted() as ours:
        balancer.backward(network.losses())
    assert ours.products == static.products + 1


def test_a_task_without_a_way_to_w_is_refused_and_one_whose_column_has_none_has_norm_0():
    network = Columns(vector=True)
    balancer, apart = GradNorm(TASKS, network.shared), nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="expected a loss that depends on the shared layer"):
        balancer.backward(network.losses() | {"odd": 2 * apart})
    found = CASES["a column without graph"][1]()
    balancer = GradNorm(list(found.losses()), found.shared)
    balancer.backward(found.losses())
    assert (balancer.last.gradient_norms > 0).tolist() == [True, True, False]


@kinds
def test_stacked_networks_have_the_gradients_of_each_alone(vector):
    networks = [Columns(vector) for _ in range(2)]
    for network in networks[1:]:
        network.x, network.y = networks[0].x, networks[0].y
    stacked = {
        name: torch.stack([p.detach() for p in parts]).requires_grad_()
        for name, parts in zip(
            dict(networks[0].named_parameters()), zip(*(n.parameters() for n in networks), strict=True), strict=True
        )
    }
    run = vmap(lambda parameters, x: functional_call(networks[0], parameters, (x,)), in_dims=(0, None))
    losses = run(stacked, networks[0].x)
    factors = torch.tensor([[1.0, 2, 3, 4], [4, 3, 2, 1]])
    step = arrange(list(losses.values()), list(range(4)), TASKS, factors, set())
    found = TaskGradients([stacked["shared.weight"], stacked["shared.bias"]], step, stacked=True)
    path = measured_backward(factors, found)
    assert path.name == "one pass", path
    for k, network in enumerate(networks):
        rows = [w * loss for w, loss in zip(factors[k], network.losses().values(), strict=True)]
        norms = []
        for row in rows:
            parts = torch.autograd.grad(row, list(network.shared.parameters()), retain_graph=True)
            norms.append(torch.cat([part.flatten() for part in parts]).norm())
        torch.testing.assert_close(found.norms()[:, k], torch.stack(norms))
        sum(rows).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(stacked[name].grad[k], parameter.grad)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("columns that are normalized together", "joined in CatBackward0 and mixed in NativeLayerNormBackward0"),
        ("columns written in place", "joined in CopySlices"),
        ("a task that reads two columns of others", "joined in CatBackward0"),
    ],
)
def test_the_path_says_where_every_task_runs_back_through_all_heads(name, words):
    found = CASES[name][1]()
    balancer = GradNorm(list(found.losses()), found.shared)
    balancer.backward(found.losses())
    assert words in balancer.path.why
    assert "each task runs back through all" in balancer.path.why
