"""GradNorm against the paper: the reference, the invariants, the ranges."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from balancers import BalancerWarning, GradNorm
from balancers.balance import Measurement, balance
from balancers.testing import TASKS, TinyNetwork
from tests.helpers.gradnorm_reference import gradnorm_reference

pytestmark = pytest.mark.filterwarnings("ignore:A weight reached its floor")


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class ConvNetwork(nn.Module):
    """A small convolutional trunk with dense and pooled heads."""

    def __init__(self, tasks):
        super().__init__()
        torch.manual_seed(3)
        self.trunk = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.heads = nn.ModuleDict({task: nn.Conv2d(4, 1, 1) for task in tasks})
        self.inputs = torch.randn(4, 2, 6, 6)
        self.targets = {task: torch.randn(4, 1, 6, 6) for task in tasks}

    @property
    def shared(self):
        return self.trunk[-1]

    def losses(self):
        features = self.trunk(self.inputs).relu()
        return {
            t: 5.0**i * (h(features) - self.targets[t]).abs().mean() for i, (t, h) in enumerate(self.heads.items())
        }


def train(balancer, network, steps, lr=1e-3):
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    path = [balancer.weights]
    for _ in range(steps):
        optimizer.zero_grad()
        balancer.backward(network.losses())
        optimizer.step()
        path.append(balancer.weights)
    return torch.stack(path)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 0.5, 1.5, 3.0])
@pytest.mark.parametrize("tasks", [("a", "b"), TASKS, tuple("abcdefghij")])
@pytest.mark.parametrize("network", [TinyNetwork, ConvNetwork])
def test_paper_recipe_follows_the_reference_for_50_steps(network, tasks, alpha, double_precision):
    lr = 1e-3 / 30 ** (len(tasks) - 2)  # the losses grow with the task's number
    expected = gradnorm_reference(network(tasks), tasks, alpha, steps=50, network_lr=lr)
    subject = network(tasks)
    found = train(GradNorm.paper(tasks, subject.shared, alpha=alpha), subject, 50, lr)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (expected[-1] - 1).abs().max() > 0.02  # it went somewhere


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_paper_recipe_follows_the_reference_in_single_precision(alpha):
    expected = gradnorm_reference(TinyNetwork(), TASKS, alpha, steps=50, network_lr=1e-5)
    subject = TinyNetwork()
    found = train(GradNorm.paper(list(TASKS), subject.shared, alpha=alpha), subject, 50, 1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


vectors = st.integers(1, 6).flatmap(
    lambda T: st.tuples(*[st.lists(st.floats(0.05, 20.0), min_size=T, max_size=T) for _ in range(4)])
)


@given(vectors, st.floats(0, 3))
def test_closed_form_is_autograd_of_the_l1_loss(values, alpha):
    w, norms, losses, initial = (torch.tensor(v, dtype=torch.float64) for v in values)
    now = balance(Measurement(w, w * norms, losses, initial, alpha))
    free = w.clone().requires_grad_()
    distance = free * norms - (w * norms - now.gaps)  # the target is a constant
    torch.testing.assert_close(w * norms - now.gaps, (w * norms).mean() * now.rates**alpha)
    (expected,) = torch.autograd.grad(distance.abs().sum(), free)
    clear = distance.detach().abs() > 1e-12
    torch.testing.assert_close(now.gradient[clear], (w * expected)[clear])


@given(vectors, st.floats(0, 3), st.randoms())
def test_balance_is_permutation_equivariant(values, alpha, random):
    w, norms, losses, initial = (torch.tensor(v, dtype=torch.float64) for v in values)
    order = list(range(len(w)))
    random.shuffle(order)
    one = balance(Measurement(w, w * norms, losses, initial, alpha))
    two = balance(Measurement(w[order], (w * norms)[order], losses[order], initial[order], alpha))
    torch.testing.assert_close(one.rates[order], two.rates)
    torch.testing.assert_close(one.gaps[order], two.gaps, rtol=1e-6, atol=1e-9)


@given(vectors, st.floats(0, 3), st.floats(0.01, 100))
def test_scaling_a_loss_changes_no_rate_and_no_gap(values, alpha, factor):
    w, norms, losses, initial = (torch.tensor(v, dtype=torch.float64) for v in values)
    scale = torch.ones_like(w)
    scale[0] = factor
    one = balance(Measurement(w, w * norms, losses, initial, alpha))
    two = balance(Measurement(w, w * norms, losses * scale, initial * scale, alpha))
    torch.testing.assert_close(one.rates, two.rates)
    torch.testing.assert_close(one.gaps, two.gaps, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("where", ["losses", "norms"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_refuses_the_step(where, bad):
    G, losses = torch.ones(3), torch.ones(3)
    assert not balance(Measurement(torch.ones(3), G, losses, torch.ones(3), 0.5)).refused
    (losses if where == "losses" else G)[1] = bad
    assert balance(Measurement(torch.ones(3), G, losses, torch.ones(3), 0.5)).refused


@settings(max_examples=20, deadline=None)
@given(st.integers(-7, 7).map(lambda k: 2.0**k), st.sampled_from([0.0, 0.5, 1.5]))
def test_robust_recipe_does_not_depend_on_the_unit_of_a_loss(factor, alpha):
    """Scaling L_i by c scales w_i(t) by 1/c, up to the common scale and Adam's memory of it."""

    def path(scale):
        network = TinyNetwork(("a", "b"))
        balancer = GradNorm.robust(["a", "b"], network.shared, alpha=alpha)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=0)  # does not see the common scale either
        for _ in range(8):
            optimizer.zero_grad()
            losses = network.losses()
            balancer.backward({"a": scale * losses["a"], "b": losses["b"]})
            optimizer.step()
        return balancer.weights

    one, two = path(1.0), path(factor)
    torch.testing.assert_close(two[0] / two[1] * factor, one[0] / one[1], rtol=1e-2, atol=0)


@pytest.mark.parametrize("recipe", [GradNorm.paper, GradNorm.robust, GradNorm.direct])
def test_identical_tasks_keep_weight_one(recipe):
    network = TinyNetwork(("a",))
    balancer = recipe(["a", "b", "c"], network.shared, alpha=1.5)
    for _ in range(20):
        loss = network.losses()["a"]
        balancer.backward({"a": loss, "b": loss * 1, "c": loss * 1})
    torch.testing.assert_close(balancer.weights, torch.ones(3))


@pytest.mark.parametrize("recipe", [GradNorm.paper, GradNorm.robust, GradNorm.direct])
def test_slow_task_gains_weight(recipe):
    """Two like tasks, one of which does not improve: it has r > 1 and, for alpha > 0, the larger weight."""

    def final(alpha):
        x = nn.Parameter(torch.ones(4))
        balancer = recipe(["slow", "fast"], x, alpha=alpha)
        for step in range(30):
            progress = 0.95**step
            balancer.backward({"slow": x.sum(), "fast": x.sum() * progress + (1 - progress) * x.sum().detach() * 0})
        assert balancer.last.rates[0] > 1 > balancer.last.rates[1]
        return balancer.weights

    assert final(1.5)[0] > final(0.5)[0] > final(0.0)[0]
    slow, fast = final(1.5)
    assert slow > fast


def test_paper_weights_stop_at_the_floor_and_say_so():
    network = TinyNetwork()
    balancer = GradNorm.paper(list(TASKS), network.shared, alpha=0.0)
    for _ in range(80):
        balancer.backward(network.losses())
    assert balancer.floor_hits > 0
    with pytest.warns(BalancerWarning, match="floor"):
        weights = balancer.weights
    assert weights.min() > 0


@pytest.mark.parametrize("recipe", [GradNorm.paper, GradNorm.robust, GradNorm.direct])
def test_a_loss_that_is_infinite_keeps_w_and_is_reported_once(recipe):
    network, bad = TinyNetwork(), float("inf")
    balancer = recipe(list(TASKS), network.shared, alpha=0.5)
    balancer.backward(network.losses())
    before, state = balancer.weights, balancer.state_dict()["adam"]["moments"]
    losses = network.losses()
    balancer.backward({**losses, "far": losses["far"] * bad})
    with pytest.warns(BalancerWarning, match="1 steps"):
        after = balancer.weights
    assert torch.equal(before, after)
    with warnings.catch_warnings():
        warnings.simplefilter("error", BalancerWarning)
        assert torch.equal(state, balancer.state_dict()["adam"]["moments"])
    path = train(balancer, network, 3)
    assert not torch.equal(path[-1], after)  # and it goes on


def test_update_every_and_freeze_after():
    network = TinyNetwork()
    path = train(GradNorm.robust(list(TASKS), network.shared, update_every=3, freeze_after=7), network, 12, 1e-5)
    moved = (path[1:] != path[:-1]).any(1).tolist()
    # the first difference is the balanced start
    assert moved == [True, False, False, True, False, False, True, False, False, False, False, False]


def test_annealed_weights_stop_moving_at_the_end_of_the_run():
    network = TinyNetwork()
    path = train(GradNorm.annealed(list(TASKS), network.shared, 0.5, decay_steps=40), network, 50, 1e-5)
    moves = path.log().diff(dim=0).abs().amax(1)[1:]  # the first is the balanced start
    assert moves[0] > 0
    assert moves[35:39].max() < 0.15 * moves[:4].max()
    assert torch.equal(path[40], path[50])


def test_annealing_changes_the_rate_and_nothing_else():
    def two(**settings):
        network = TinyNetwork()
        return train(GradNorm.robust(list(TASKS), network.shared, **settings), network, 2, 1e-5)

    assert torch.equal(two(lr=0.1, decay_steps=1)[1], two(lr=0.1)[1])  # step 0 has the whole rate
    torch.testing.assert_close(two(lr=0.1, decay_steps=1)[2], two(lr=0.1)[1], rtol=1e-6, atol=0)  # and step 1 none
    halved = two(lr=0.1, decay_steps=2)
    assert torch.equal(halved[1], two(lr=0.1)[1])
    assert 0 < (halved[2] / halved[1]).log().abs().max() < (two(lr=0.1)[2] / halved[1]).log().abs().max()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_direct_weights_make_every_norm_proportional_to_its_target(alpha):
    """Without smoothing, G_i of the same batch at w(t+1) is in proportion to r_i^alpha."""
    network = TinyNetwork()
    balancer = GradNorm.direct(list(TASKS), network.shared, alpha, smoothing=0.0)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    for _ in range(5):
        optimizer.zero_grad()
        balancer.backward(network.losses())
        last = balancer.last
        G = last.gradient_norms / last.weights * balancer.weights
        torch.testing.assert_close(G / G.mean(), last.rates**alpha / (last.rates**alpha).mean(), rtol=1e-4, atol=0)
        optimizer.step()
    assert (balancer.last.rates - 1).abs().max() > 1e-3  # else alpha would not have been seen


@pytest.mark.filterwarnings("ignore:Task `falls` was absent in 1 steps")  # its loss is exactly 0 on its way down
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_direct_weights_stay_when_a_loss_below_zero_has_no_rate(alpha):
    x = nn.Parameter(torch.ones(4))
    balancer = GradNorm.direct(["falls", "stays"], x, alpha)
    for step in range(200):
        balancer.backward({"falls": x.sum() - x.sum().detach() + 1 - 0.02 * step, "stays": x.sum()})
    with pytest.warns(BalancerWarning, match="Loss of task `falls` was below 0 in 149 steps"):
        weights = balancer.weights
    assert bool((weights > 0).all())
    assert balancer.mean_weights().isfinite().all()


@pytest.mark.parametrize("recipe", [GradNorm.paper, GradNorm.robust, GradNorm.direct])
@pytest.mark.parametrize("since", [0, 10])
def test_at_alpha_0_a_loss_below_0_changes_nothing(recipe, since, double_precision):
    """A constant changes no gradient, and at alpha 0 no loss is read."""

    def run(constant):
        network = TinyNetwork()
        balancer = recipe(list(TASKS), network.shared, alpha=0.0)
        for step in range(40):
            losses = network.losses()
            balancer.backward({**losses, "far": losses["far"] - (constant if step >= since else 0)})
        assert not any("below 0" in note for note in balancer.notes())
        return balancer.weights

    torch.testing.assert_close(run(1e4), run(0.0))


@pytest.mark.parametrize("recipe", [GradNorm.paper, GradNorm.robust, GradNorm.direct])
def test_with_given_initial_losses_the_first_loss_may_be_below_0(recipe):
    network, other = TinyNetwork(), TinyNetwork()
    initial = {"near": 1.0, "far": 30.0, "odd": 900.0}
    balancer, without = (recipe(list(TASKS), n.shared, alpha=1.0, initial_losses=initial) for n in (network, other))
    for _ in range(5):
        losses, rest = network.losses(), other.losses()
        balancer.backward({**losses, "far": losses["far"] - 1e4})
        without.backward({task: rest[task] for task in ("near", "odd")})
    ratio = balancer.weights / without.weights
    torch.testing.assert_close(ratio[0], ratio[2])  # the others are balanced as if it were absent
    assert any("Loss of task `far` was below 0 in 5 steps" in note for note in balancer.notes())


def test_direct_weights_stay_where_a_task_has_no_gradient_yet():
    x = nn.Parameter(torch.ones(4))
    balancer = GradNorm.direct(["late", "early"], x, 0.0, initial_weights="ones", smoothing=0.0)
    balancer.backward({"late": 0 * x.sum() + 1, "early": x.sum()})
    with pytest.warns(BalancerWarning, match="Task `late` had no gradient on the shared layer in 1 steps"):
        assert balancer.weights.tolist() == [1.0, 1.0]
    balancer.backward({"late": 2 * x.sum(), "early": x.sum()})
    assert balancer.weights[0] < balancer.weights[1]


def test_direct_weights_use_bias_corrected_means():
    """The oracle: 1 - smoothing times the sum of smoothing**age times the measurement, over the same of ones."""
    network, smoothing = TinyNetwork(), 0.8
    balancer = GradNorm.direct(list(TASKS), network.shared, 0.5, smoothing=smoothing)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    norms, losses = [], []
    for _ in range(7):
        optimizer.zero_grad()
        balancer.backward(network.losses())
        optimizer.step()
        norms.append(balancer.last.gradient_norms / balancer.last.weights)
        losses.append(balancer.last.losses)
    age = torch.tensor([smoothing**k for k in reversed(range(7))])
    mean_norm, mean_loss = ((age @ torch.stack(rows)) / age.sum() for rows in (norms, losses))
    progress = mean_loss / losses[0]
    expected = (progress / progress.mean()) ** 0.5 / mean_norm
    torch.testing.assert_close(balancer.weights, expected * 3 / expected.sum(), rtol=1e-4, atol=0)


def test_balanced_start_makes_all_gradient_norms_equal():
    network = TinyNetwork()
    balancer = GradNorm.robust(list(TASKS), network.shared, alpha=0.0)
    balancer.backward(network.losses())
    G = balancer.last.gradient_norms
    torch.testing.assert_close(G, G.mean().expand(3), rtol=1e-5, atol=0)


def test_given_initial_losses_set_the_rates():
    network = TinyNetwork()
    initial = {"near": 2.0, "far": 1.0, "odd": 5.0}
    balancer = GradNorm(list(TASKS), network.shared, initial_losses=initial)
    losses = network.losses()
    balancer.backward(losses)
    progress = torch.stack([losses[t].detach() / initial[t] for t in TASKS])
    torch.testing.assert_close(balancer.last.rates, progress / progress.mean())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"alpha": -1.0}, "alpha: expected a number >= 0, got -1.0"),
        ({"alpha": float("nan")}, "alpha"),
        ({"lr": 0.0}, "lr"),
        ({"update_every": 0}, "update_every"),
        ({"freeze_after": -1}, "freeze_after"),
        ({"floor": 0.0}, "floor"),
        ({"parametrization": "square"}, "'square'"),
        ({"decay_steps": 0}, "decay_steps"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"parametrization": "direct", "decay_steps": 5}, "decay_steps"),
        ({"initial_weights": "random"}, "'random'"),
        ({"initial_weights": {"near": 1.0}}, "initial_weights"),
        ({"initial_weights": {"near": 1.0, "far": 0.0, "odd": 1.0}}, "far"),
        ({"initial_losses": "epoch"}, "'epoch'"),
        ({"initial_losses": {"near": -1.0, "far": 1.0, "odd": 1.0}}, "near"),
        ({"shared": nn.ReLU()}, "shared"),
        ({"tasks": []}, "tasks"),
        ({"tasks": ["a", "a"]}, "tasks"),
    ],
)
def test_refuses_bad_arguments_in_one_grammar(arguments, words):
    good = {"tasks": list(TASKS), "shared": TinyNetwork().shared}
    with pytest.raises(ValueError, match=": expected ") as error:
        GradNorm(**good | arguments)
    assert words in str(error.value)


def test_refuses_losses_without_names():
    network = TinyNetwork()
    balancer = GradNorm.paper(list(TASKS), network.shared)
    for call in (balancer, balancer.backward):
        with pytest.raises(ValueError, match=r"^losses: expected a mapping from task to loss, got list$"):
            call(list(network.losses().values()))


@pytest.mark.parametrize("value", [-1.0, float("inf")])
def test_refuses_a_first_loss_that_no_ratio_can_be_taken_of(value):
    network = TinyNetwork()
    losses = network.losses()
    losses["far"] = losses["far"] * 0 + value
    with pytest.raises(ValueError, match=r"losses\['far'\]"):
        GradNorm.paper(list(TASKS), network.shared).backward(losses)


def test_refuses_a_shared_layer_that_a_loss_does_not_depend_on():
    network = TinyNetwork()
    with pytest.raises(ValueError, match=r"losses\['far'\]: expected a loss that depends on the shared layer"):
        GradNorm.paper(list(TASKS), network.heads["near"]).backward(network.losses())
