"""GradNorm in the loops that people train in: mixed precision, gradient accumulation, a stop at any step."""

import copy
import io

import pytest
import torch

from balancers import BalancerWarning, Equal, GradNorm
from balancers.testing import TASKS, TinyNetwork
from balancers.torchjd_methods import torchjd_balancer

pytestmark = pytest.mark.filterwarnings("ignore:A weight reached its floor")

RECIPES = {"paper": GradNorm.paper, "robust": GradNorm.robust}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def micro_batches(network, step, parts, size=24):
    """Losses of each part of a batch that is new in each step."""
    generator = torch.Generator().manual_seed(step)
    network.inputs = torch.randn(size, 5, generator=generator)
    network.targets = {task: torch.randn(size, 1, generator=generator) for task in TASKS}
    whole = network.inputs, network.targets
    for part in range(parts):
        rows = slice(part * size // parts, (part + 1) * size // parts)
        network.inputs, network.targets = whole[0][rows], {task: y[rows] for task, y in whole[1].items()}
        yield network.losses()


def test_autocast_gives_the_gradient_that_plain_autocast_gives():
    network = TinyNetwork()
    balancer = GradNorm(list(TASKS), network.shared, initial_weights={"near": 3.0, "far": 0.5, "odd": 0.1})
    for _ in range(2):
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses = network.losses()
        balancer.backward(losses)
        found = [p.grad.clone() for p in network.parameters()]
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            losses = network.losses()
        sum(w * loss for w, loss in zip(balancer.last.weights, losses.values(), strict=True)).backward()
        for gradient, p in zip(found, network.parameters(), strict=True):
            assert gradient.dtype == torch.float32
            torch.testing.assert_close(gradient, p.grad, rtol=0.03, atol=0.03 * float(p.grad.abs().max()))
    assert balancer.path.name == "one pass"
    assert balancer.weights.dtype == torch.float32


def test_a_network_in_half_precision_keeps_its_norms_in_single():
    network = TinyNetwork().bfloat16()
    network.inputs, network.targets = network.inputs.bfloat16(), {t: y.bfloat16() for t, y in network.targets.items()}
    balancer = GradNorm.robust(list(TASKS), network.shared, alpha=0.5)
    for _ in range(3):
        network.zero_grad()
        balancer.backward(network.losses())
    assert balancer.last.gradient_norms.dtype == torch.float32
    assert balancer.weights.isfinite().all()
    assert network.shared.weight.grad.dtype == torch.bfloat16


def train_scaled(recipe, scale, steps, clip=False):
    """Weights after each step of a loop with a GradScaler (scale None: without), and the network."""
    network = TinyNetwork()
    balancer = recipe(list(TASKS), network.shared, alpha=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=scale or 1.0, backoff_factor=1e-3, enabled=scale is not None, growth_interval=10**6
    )
    path = []
    for step in range(steps):
        optimizer.zero_grad()
        (losses,) = micro_batches(network, step, 1)
        scaler.scale(balancer(losses)).backward()
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        path.append(balancer._w.clone())
    return torch.stack(path), network, balancer, scaler


@recipes
@pytest.mark.parametrize("clip", [False, True])
def test_a_grad_scaler_changes_neither_weights_nor_network(recipe, clip):
    plain, network, _, _ = train_scaled(recipe, None, 10, clip)
    scaled, other, _, _ = train_scaled(recipe, 2.0**16, 10, clip)
    torch.testing.assert_close(scaled, plain)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


@recipes
def test_steps_that_overflow_are_skipped_by_scaler_and_balancer_alike(recipe):
    path, network, balancer, scaler = train_scaled(recipe, 2.0**126, 30)
    assert scaler.get_scale() < 2.0**126  # some steps did overflow
    assert path.isfinite().all()
    with pytest.warns(BalancerWarning, match="GradScaler"):
        assert not torch.equal(balancer.weights, torch.ones(3))
    assert 0 < balancer.not_finite_steps < 30
    assert all(p.isfinite().all() for p in network.parameters())


def test_balance_waits_for_gradients_that_do_not_overflow():
    path, _, balancer, _ = train_scaled(GradNorm.robust, 2.0**126, 30)
    unit = path[0]
    torch.testing.assert_close(unit, torch.ones(3))
    plain = train_scaled(GradNorm.robust, None, 30)[0]
    # 900-fold unlike losses: the balance, once there, is of the same kind as without a scaler
    assert path[-1][2] < 0.1
    assert plain[-1][2] < 0.1
    assert not balancer._unbalanced


@recipes
@pytest.mark.parametrize("style", ["backward", "called"])
@pytest.mark.parametrize("parts", [2, 3])
def test_accumulation_is_the_large_batch(recipe, style, parts):
    def run(parts):
        network = TinyNetwork()
        balancer = recipe(list(TASKS), network.shared, alpha=0.5, initial_weights="ones", accumulate=parts)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        path = []
        for step in range(10):
            optimizer.zero_grad()
            for losses in micro_batches(network, step, parts):
                if style == "called":
                    (balancer(losses) / parts).backward()
                else:
                    balancer.backward(losses)
            optimizer.step()
            path.append(balancer.weights)
        assert balancer.step == 10
        return torch.stack(path), network, balancer

    (small, one, balancer), (large, two, whole) = run(parts), run(1)
    torch.testing.assert_close(small, large, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(balancer.last.gradient_norms, whole.last.gradient_norms, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(balancer.mean_weights(), whole.mean_weights(), rtol=1e-5, atol=1e-6)
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


SETTINGS = {
    "plain": {},
    "every": {"update_every": 3},
    "freeze": {"freeze_after": 5},
    "every and freeze": {"update_every": 2, "freeze_after": 5},
    "accumulate": {"accumulate": 3},
    "accumulate and every": {"accumulate": 2, "update_every": 2},
    "task by task": {"one_pass": False},
}


@recipes
@pytest.mark.parametrize("parametrization", ["linear", "log"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_stopped_after_any_backward_pass_and_continued_bit_for_bit(recipe, parametrization, settings):
    parts, steps = settings.get("accumulate", 1), 8

    def make(network):
        balancer = recipe(list(TASKS), network.shared, alpha=0.5, **{"parametrization": parametrization} | settings)
        return balancer, torch.optim.Adam(network.parameters(), lr=1e-3)

    network = TinyNetwork()
    balancer, optimizer = make(network)
    saved = []
    for step in range(steps):
        for part, losses in enumerate(micro_batches(network, step, parts)):
            if part == 0:
                optimizer.zero_grad()
            file = io.BytesIO()
            gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
            torch.save([balancer.state_dict(), network.state_dict(), optimizer.state_dict(), gradients], file)
            saved.append((step, part, file))
            balancer.backward(losses)
        optimizer.step()
    for step, part, file in saved:
        file.seek(0)
        state = torch.load(file, weights_only=True)
        twin = TinyNetwork(seed=5)
        twin.load_state_dict(state[1])
        again, other = make(twin)
        again.load_state_dict(state[0])
        other.load_state_dict(state[2])
        for p, gradient in zip(twin.parameters(), state[3], strict=True):
            p.grad = gradient
        for now in range(step, steps):
            for k, losses in enumerate(micro_batches(twin, now, parts)):
                if now == step and k < part:
                    continue
                if k == 0:
                    other.zero_grad()
                again.backward(losses)
            other.step()
        assert torch.equal(again.weights, balancer.weights), (step, part)
        for kind in ("arithmetic", "geometric"):
            assert torch.equal(again.mean_weights(kind), balancer.mean_weights(kind))
        assert again.step == balancer.step == steps
        for left, right in zip(twin.parameters(), network.parameters(), strict=True):
            assert torch.equal(left, right)
        copy.deepcopy(again)


@pytest.mark.parametrize("make", [Equal, lambda tasks: torchjd_balancer("upgrad", tasks)], ids=["equal", "upgrad"])
def test_any_balancer_fills_in_the_mean_over_accumulated_passes(make):
    network, other = TinyNetwork(), TinyNetwork()
    once, twice = make(list(TASKS)), make(list(TASKS))
    twice.accumulate = 2
    once.backward(network.losses())
    for _ in range(2):
        twice.backward(other.losses())
    for left, right in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)


@pytest.mark.parametrize("style", ["backward", "called"])
def test_the_end_of_an_epoch_closes_a_window_that_is_not_full(style):
    """Frameworks step there; from then on windows are in phase again, and w moves by the mean of what there was."""
    network, other = TinyNetwork(), TinyNetwork()
    balancer = GradNorm(list(TASKS), network.shared, alpha=0.5, accumulate=4)
    whole = GradNorm(list(TASKS), other.shared, alpha=0.5, accumulate=2)
    for epoch in range(3):
        for losses in micro_batches(network, epoch, 2):
            balancer.backward(losses) if style == "backward" else (balancer(losses) / 4).backward()
        balancer.end_epoch()
        for losses in micro_batches(other, epoch, 2):
            whole.backward(losses)
        whole.end_epoch()
        assert balancer.step == whole.step == epoch + 1
        torch.testing.assert_close(balancer.weights, whole.weights)


def test_another_accumulation_ends_the_step_that_is_under_way():
    network, other = TinyNetwork(), TinyNetwork()
    balancer = GradNorm(list(TASKS), network.shared, alpha=0.5, accumulate=4)
    whole = GradNorm(list(TASKS), other.shared, alpha=0.5, accumulate=3)
    for losses in micro_batches(network, 0, 3):
        balancer.backward(losses)
    assert balancer.passes == 3
    for losses in micro_batches(other, 0, 3):
        whole.backward(losses)
    balancer.accumulate = 3
    assert (balancer.accumulate, balancer.passes, balancer.step) == (3, 0, 1)
    torch.testing.assert_close(balancer.weights, whole.weights)
    with pytest.raises(ValueError, match="accumulate: expected a number >= 1, got 0"):
        balancer.accumulate = 0


def test_the_state_of_another_accumulation_is_refused_in_the_middle_of_a_step_alone():
    network = TinyNetwork()
    balancer, other = (GradNorm(list(TASKS), network.shared, accumulate=parts) for parts in (2, 3))
    balancer.backward(network.losses())
    with pytest.raises(ValueError, match="accumulate: expected 2, as in the state"):
        other.load_state_dict(balancer.state_dict())
    balancer.backward(network.losses())
    other.load_state_dict(balancer.state_dict())
    assert (other.step, other.accumulate) == (1, 3)


def test_refuses_to_accumulate_less_than_once():
    with pytest.raises(ValueError, match="accumulate: expected a number >= 1, got 0"):
        GradNorm(list(TASKS), TinyNetwork().shared, accumulate=0)
