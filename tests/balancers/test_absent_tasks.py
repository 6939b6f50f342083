"""Tasks absent from a step: the paper's algorithm over the present tasks, in every path that a step can take."""

import contextlib
import copy
import random

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from balancers import BalancerWarning, Frozen, GradNorm, Stack, Static, Uncertainty
from balancers.testing import ABSENT, TASKS, TinyNetwork
from balancers.torchjd_methods import torchjd_balancer
from tests.helpers.gradnorm_reference import gradnorm_reference_of_some
from tests.helpers.no_host import as_device, no_host

pytestmark = pytest.mark.filterwarnings("ignore::balancers.BalancerWarning")
RECIPES = {"paper": GradNorm.paper, "robust": GradNorm.robust, "direct": GradNorm.direct}
WHERE = {"host": contextlib.nullcontext, "device": as_device}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
kinds = pytest.mark.parametrize("kind", ABSENT)


@pytest.fixture(params=WHERE)
def place(request):
    """Choose how the balancer decides: by numbers that the host knows, or by masks on the device."""
    with WHERE[request.param]():
        yield request.param


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pattern(steps, seed=1):
    """The tasks of each step, each absent from about a third; the first step lacks one."""
    draw = random.Random(seed)
    found = [[task for task in TASKS if draw.random() < 0.67] or ["near"] for _ in range(steps)]
    return [["near", "odd"], ["far"], *found[2:]]


def train(balancer, network, present, kind="missing", lr=1e-5):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    path = [balancer._w.clone()]
    for names in present:
        optimizer.zero_grad(set_to_none=True)
        losses = network.losses()
        for task in set(TASKS).difference(names):
            losses = ABSENT[kind](losses, task)
        balancer.backward(losses)
        optimizer.step()
        path.append(balancer._w.clone())
    return torch.stack(path)


@kinds
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_paper_recipe_follows_the_algorithm_of_the_tasks_that_are_there(kind, alpha, double_precision):
    present = pattern(60)
    expected = gradnorm_reference_of_some(TinyNetwork(), TASKS, alpha, present, network_lr=1e-5)
    subject = TinyNetwork()
    found = train(GradNorm.paper(TASKS, subject.shared, alpha), subject, present, kind)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (expected[-1] - 1).abs().max() > 0.02  # it went somewhere


@pytest.mark.parametrize("kind", ["missing", "0 that is a leaf", "0 times the loss", "NaN of no example"])
@recipes
def test_masks_on_a_device_give_the_same_numbers_as_the_host(recipe, kind, double_precision):
    """Losses of 0 or NaN are found by masks if the host may not read them; the numbers are the same."""
    found = []
    for where in WHERE.values():
        network = TinyNetwork()
        with where():
            found.append(train(recipe(TASKS, network.shared, 0.5), network, pattern(40), kind))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("kind", ["missing", "0 times the loss", "NaN of no example"])
@recipes
def test_no_step_waits_for_the_device_once_each_task_has_been_there(recipe, kind):
    network = TinyNetwork()
    balancer = recipe(TASKS, network.shared, 0.5)
    with as_device():
        train(balancer, network, [["near", "odd"], TASKS])
    for names in pattern(40):
        losses = network.losses()
        for task in set(TASKS).difference(names):
            losses = ABSENT[kind](losses, task)
        with no_host():
            balancer.backward(losses)


@recipes
def test_steps_of_a_single_task_do_not_change_the_balance(recipe, place, double_precision):
    """With two tasks, a run with such steps between has the weights of a run without them; direct has seen more."""

    def run(present):
        network = TinyNetwork(("near", "far"))
        balancer = recipe(["near", "far"], network.shared, 0.5)
        for names in present:
            losses = network.losses()
            balancer.backward({task: losses[task] for task in names})
        return balancer.weights

    both = ["near", "far"]
    torch.testing.assert_close(run([both, ["near"], both, ["far"], ["far"], both]), run([both] * 3))


@pytest.mark.parametrize("kind", ["missing", "0 times the loss", "NaN of no example"])
@pytest.mark.parametrize("recipe", [GradNorm.robust, GradNorm.direct], ids=["robust", "direct"])
def test_a_balanced_start_waits_for_each_task(recipe, kind, place):
    network = TinyNetwork()
    balancer = recipe(TASKS, network.shared, 0.5)
    train(balancer, network, [["near", "odd"]], kind, lr=0.0)
    assert balancer.weights[1] == 1  # a mean one until it comes
    torch.testing.assert_close(balancer.weights.sum(), torch.tensor(3.0))
    train(balancer, network, [TASKS], kind, lr=0.0)
    G = balancer.last.gradient_norms
    torch.testing.assert_close(G[1], (G[0] + G[2]) / 2, rtol=1e-4, atol=0)
    assert not balancer._unbalanced
    assert balancer.initial_losses.isfinite().all()


def test_direct_averages_are_of_the_steps_that_a_task_was_in(place, double_precision):
    network, smoothing, present = TinyNetwork(), 0.8, [TASKS, ["near", "far"], ["near"], ["far", "odd"], TASKS]
    balancer = GradNorm.direct(TASKS, network.shared, 0.5, smoothing=smoothing)
    seen, first = {task: [] for task in TASKS}, {}
    for names in present:
        losses = network.losses()
        norms = {
            task: torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(losses[task], network.shared.parameters(), retain_graph=True)
                ]
            ).norm()
            for task in names
        }
        for task in names:
            first.setdefault(task, losses[task].detach())
            seen[task].append((norms[task], losses[task].detach()))
        train(balancer, network, [names])
    means = []
    for task in TASKS:
        age = torch.tensor([smoothing**k for k in reversed(range(len(seen[task])))])
        rows = torch.tensor([[float(number) for number in row] for row in seen[task]])
        means.append(age @ rows / age.sum())
    progress = torch.stack([mean[1] / first[task] for mean, task in zip(means, TASKS, strict=True)])
    wanted = (progress / progress.mean()) ** 0.5 / torch.stack([mean[0] for mean in means])
    torch.testing.assert_close(balancer.weights, 3 * wanted / wanted.sum())


@pytest.mark.parametrize("kind", ["missing", "0 times the loss", "NaN of no example"])
@pytest.mark.parametrize("rule", ["loss", "gradient"])
def test_first_step_weights_are_of_the_first_step_of_each_task(rule, kind, place):
    network, other = TinyNetwork(), TinyNetwork()
    late, whole = Frozen(TASKS, rule, network.shared), Frozen(TASKS, rule, other.shared)
    train(late, network, [["near"], ["far"], ["near", "far"], ["odd"]], kind, lr=0.0)
    train(whole, other, [TASKS])
    torch.testing.assert_close(late.weights, whole.weights)


@pytest.mark.parametrize("kind", ["missing", "0 times the loss", "NaN of no example"])
def test_uncertainty_of_a_task_moves_in_its_own_steps_alone(kind, place):
    network, other, present = TinyNetwork(), TinyNetwork(), pattern(30)
    some, alone = Uncertainty(TASKS), Uncertainty(["far"])
    train(some, network, present, kind, lr=0.0)
    for names in present:
        if "far" in names:
            alone.backward({"far": other.losses()["far"]})
    torch.testing.assert_close(some.weights[1], alone.weights[0])


@pytest.mark.parametrize("name", ["mgda", "pcgrad"])
def test_an_aggregator_without_a_memory_sees_the_tasks_that_are_there(name):
    some, network = torchjd_balancer(name, TASKS), TinyNetwork()
    pair, other = torchjd_balancer(name, ["near", "odd"]), TinyNetwork(("near", "odd"))
    other.load_state_dict(network.state_dict(), strict=False)
    other.inputs, other.targets = network.inputs, network.targets
    scale = {"near": 1.0, "odd": 30.0}  # the losses grow with the task's number
    for _ in range(3):
        losses = network.losses()
        some.backward({task: losses[task] for task in ("near", "odd")})
        pair.backward({task: scale[task] * loss for task, loss in other.losses().items()})
    torch.testing.assert_close(some.weights[[0, 2]], pair.weights, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["nash_mtl", "excess_mtl", "gradvac"])
def test_an_aggregator_with_a_memory_keeps_its_weights_in_a_step_without_a_task(name):
    network, balancer = TinyNetwork(), torchjd_balancer(name, TASKS)
    train(balancer, network, [TASKS], lr=0.0)
    before = balancer.weights
    train(balancer, network, [["near", "odd"]], lr=0.0)
    assert torch.equal(balancer.weights, before)


def stacked(network, count):
    return {name: torch.stack([p.detach()] * count).requires_grad_() for name, p in network.named_parameters()}


def test_a_stack_gives_the_same_weights_as_each_balancer_alone(place, double_precision):
    def every(W):
        return [
            Static(TASKS, {"near": 1.0, "far": 0.1, "odd": 5.0}),
            Uncertainty(TASKS),
            Frozen(TASKS, "loss"),
            Frozen(TASKS, "gradient", W),
            GradNorm.paper(TASKS, W, 1.5),
            GradNorm.robust(TASKS, W, 0.3),
            GradNorm.robust(TASKS, W, 0.0),
            GradNorm.direct(TASKS, W, 0.7),
        ]

    network, present = TinyNetwork(), pattern(40)
    members = every(network.shared)
    parameters = stacked(network, len(members))
    stack = Stack(members, [parameters["trunk.2.weight"], parameters["trunk.2.bias"]])
    run = torch.func.vmap(lambda p: torch.func.functional_call(network, p, (), {}), in_dims=0)
    network.forward = network.losses
    optimizer = torch.optim.SGD(parameters.values(), lr=1e-5)
    for step, names in enumerate(present):
        optimizer.zero_grad()
        losses, kind = run(parameters), ("missing", "0 times the loss", "NaN of no example")[step % 3]
        for task in set(TASKS).difference(names):
            if kind == "NaN of no example":
                losses[task] = losses[task].expand(2, -1)[:0].mean(0)
            else:
                losses = ABSENT[kind](losses, task)
        stack.backward(losses)
        optimizer.step()
    for k, found in enumerate(stack.balancers()):
        single = TinyNetwork()
        expected = every(single.shared)[k]
        train(expected, single, present)
        torch.testing.assert_close(found.weights, expected.weights, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(found.mean_weights(), expected.mean_weights(), rtol=1e-6, atol=1e-9)
        state = found.state_dict()
        expected.load_state_dict(state)  # in the form that it has alone


@recipes
def test_a_pass_of_an_accumulated_step_may_lack_a_task(recipe, place, double_precision):
    """Its mean loss and gradient are over the passes that it was in."""
    network = TinyNetwork()
    balancer = recipe(TASKS, network.shared, 0.5, accumulate=2, initial_weights="ones")
    one = recipe(TASKS, network.shared, 0.5, initial_weights="ones")
    for _ in range(4):
        losses = network.losses()
        balancer.backward({task: losses[task] for task in ("near", "odd")})
        balancer.backward(network.losses())
        one.backward(network.losses())
    assert balancer.step == 4
    torch.testing.assert_close(balancer.weights, one.weights)


@pytest.mark.parametrize("recipe", [GradNorm.robust, GradNorm.direct], ids=["robust", "direct"])
def test_a_balanced_start_inside_an_accumulated_step_measures_all_its_passes_alike(recipe, place, double_precision):
    """w changes where a task has its first gradient; the passes before it were of other weights."""
    network = TinyNetwork()
    balancer = recipe(TASKS, network.shared, 0.5, accumulate=3)
    for names in (["near", "odd"], ["near", "odd"], TASKS):
        losses = network.losses()
        balancer.backward({task: losses[task] for task in names})
    one = recipe(
        TASKS, network.shared, 0.5, initial_weights=dict(zip(TASKS, balancer.last.weights.tolist(), strict=True))
    )
    one.backward(network.losses())
    torch.testing.assert_close(balancer.last.gradient_norms, one.last.gradient_norms)


@recipes
def test_continues_from_a_state_in_which_a_task_has_not_started(recipe, place):
    def part(balancer, network, present):
        return train(balancer, network, present, "0 times the loss")[-1]

    network, present = TinyNetwork(), [["near", "odd"], ["odd", "near"], TASKS, ["near", "far"], TASKS]
    undisturbed = part(recipe(TASKS, network.shared, 0.5), network, present)
    for stop in range(5):
        network = TinyNetwork()
        before = recipe(TASKS, network.shared, 0.5)
        part(before, network, present[:stop])
        after = recipe(TASKS, network.shared, 0.5)
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        assert torch.equal(part(after, network, present[stop:]), undisturbed)


class TestDivergence:
    def test_a_step_whose_losses_are_all_nan_is_refused_with_a_note(self, place):
        network = TinyNetwork()
        balancer = GradNorm.robust(TASKS, network.shared)
        balancer.backward(network.losses())
        before = balancer._w.clone()
        for _ in range(3):
            balancer.backward({task: loss * torch.nan for task, loss in network.losses().items()})
        assert torch.equal(balancer._w, before)
        assert balancer.not_finite_steps == 3
        assert bool(balancer({task: loss * torch.nan for task, loss in network.losses().items()}).isnan())

    @pytest.mark.parametrize(
        "make", [lambda W: Static(TASKS, dict.fromkeys(TASKS, 1.0)), lambda W: GradNorm.paper(TASKS, W)]
    )
    def test_a_loss_that_stays_nan_is_reported_with_its_task(self, make, place):
        network = TinyNetwork()
        balancer = make(network.shared)
        for step in range(120):
            losses = network.losses()
            balancer.backward(losses if step < 10 else {**losses, "far": losses["far"] * torch.nan})
        with pytest.warns(BalancerWarning, match="Loss of task `far` was NaN in the last 110 steps"):
            _ = balancer.weights

    def test_an_infinite_loss_refuses_the_step(self, place):
        network = TinyNetwork()
        balancer = GradNorm.direct(TASKS, network.shared)
        balancer.backward(network.losses())
        before, losses = balancer._w.clone(), network.losses()
        balancer.backward({**losses, "far": losses["far"] * torch.inf})
        assert torch.equal(balancer._w, before)
        assert balancer.not_finite_steps == 1


def test_a_loss_with_a_value_but_without_graph_is_refused():
    network = TinyNetwork()
    losses = network.losses()
    with pytest.raises(ValueError, match=r"losses\['far'\]: expected a loss with a graph"):
        GradNorm.paper(TASKS, network.shared).backward({**losses, "far": losses["far"].detach()})
    with pytest.raises(ValueError, match=r"losses\['far'\]: expected a loss that depends on the shared layer"):
        GradNorm.paper(TASKS, network.shared).backward({**losses, "far": torch.ones((), requires_grad=True).exp()})


def work(rank, folder):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        found = {}
        for name, recipe in RECIPES.items():
            for kind in ("missing", "0 times the loss", "NaN of no example"):
                network = TinyNetwork()
                balancer = recipe(TASKS, network.shared, 0.5)
                # Rank 1 has all but one task; `odd` is in no rank's first step.
                present = (
                    [["near", "far"], ["near", "odd"], ["near"], []] if rank else [["near"], TASKS, TASKS, TASKS]
                )
                found[name, kind] = train(balancer, network, present * 3, kind, lr=0.0)
        torch.save(found, f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_one_rank_alone_may_lack_a_task(tmp_path, double_precision):
    """The ranks hold the same weights: those of one process that has the tasks which some rank has."""
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    for (name, kind), path in one.items():
        assert torch.equal(path, two[name, kind])
        network = TinyNetwork()
        present = [["near", "far"], TASKS, TASKS, TASKS] * 3  # all ranks have one batch here
        wanted = train(RECIPES[name](TASKS, network.shared, 0.5), network, present, lr=0.0)
        torch.testing.assert_close(path, wanted, rtol=1e-7, atol=1e-9)


def test_losses_may_be_python_numbers_where_a_task_is_absent():
    x = nn.Parameter(torch.ones(2))
    balancer = GradNorm.paper(["a", "b"], x)
    balancer.backward({"a": x.sum(), "b": 0.0})
    with pytest.raises(ValueError, match=r"losses\['b'\]: expected a loss with a graph"):
        balancer.backward({"a": x.sum(), "b": 1.0})
