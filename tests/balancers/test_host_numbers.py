"""On the host w moves by plain numbers, elsewhere by tensors: to the same weights."""

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.utils._pytree import tree_flatten

from balancers import GradNorm, gradnorm
from balancers.testing import TASKS, TinyNetwork
from tests.helpers.no_host import as_device

RECIPES = {
    "paper": lambda tasks, **kw: GradNorm.paper(tasks, torch.nn.Linear(2, 2), 1.5, **kw),
    "floor": lambda tasks, **kw: GradNorm.paper(tasks, torch.nn.Linear(2, 2), 0.5, lr=0.4, floor=0.3, **kw),
    "robust": lambda tasks, **kw: GradNorm.robust(tasks, torch.nn.Linear(2, 2), 0.5, **kw),
    "annealed": lambda tasks, **kw: GradNorm.annealed(tasks, torch.nn.Linear(2, 2), 0.5, decay_steps=3, **kw),
    "direct": lambda tasks, **kw: GradNorm.direct(tasks, torch.nn.Linear(2, 2), 0.5, smoothing=0.7, **kw),
}
numbers = st.floats(0.05, 20)
measurements = st.integers(1, 6).flatmap(
    lambda T: st.lists(
        st.tuples(*[st.lists(numbers, min_size=T, max_size=T) for _ in range(2)]), min_size=2, max_size=5
    )
)


def balancer_of(recipe, T, dtype):
    found = RECIPES[recipe]([f"task{i}" for i in range(T)], initial_weights="ones")
    found._move(torch.ones(T, dtype=dtype))
    return found


def moved(balancer, steps, dtype, on_tensors, patch):
    """States after each step with these losses and norms."""
    if on_tensors:
        patch.setattr(gradnorm, "measured_on_host", lambda _: None)
    states = []
    for losses, norms in steps:
        balancer._end_step(torch.tensor(losses, dtype=dtype), torch.tensor(norms, dtype=dtype))
        states.append(balancer.state_dict() | {"rates": balancer.last.rates})
    return states


def clear_of_their_targets(recipe, steps):
    """Return whether no norm is so near its target that rounding decides the sign of its gap."""
    alpha = 1.5 if recipe == "paper" else 0.5
    first = steps[0][0]
    for losses, norms in steps:
        progress = [loss / start for loss, start in zip(losses, first, strict=True)]
        rates = [part * len(progress) / sum(progress) for part in progress]
        mean = sum(norms) / len(norms)
        gaps = [abs(norm - mean * rate**alpha) / norm for norm, rate in zip(norms, rates, strict=True)]
        if any(1e-9 < gap < 1e-4 for gap in gaps):
            return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.filterwarnings("ignore::balancers.BalancerWarning")
@settings(max_examples=25, deadline=None)
@given(steps=measurements)
def test_plain_numbers_and_tensors_lead_to_the_same_state(recipe, dtype, steps):
    assume(clear_of_their_targets(recipe, steps))
    one = balancer_of(recipe, len(steps[0][0]), dtype)
    two = copy.deepcopy(one)
    with pytest.MonkeyPatch.context() as patch:
        found = moved(one, steps, dtype, False, patch)
        expected = moved(two, steps, dtype, True, patch)
    for ours, theirs in zip(found, expected, strict=True):
        flat, wanted = (tree_flatten(state)[0] for state in (ours, theirs))
        for a, b in zip(flat, wanted, strict=True):
            if isinstance(a, torch.Tensor):
                assert a.shape == b.shape
                assert a.dtype == b.dtype
                torch.testing.assert_close(a, b, rtol=2e-5 if dtype is torch.float32 else 1e-9, atol=1e-6)
            else:
                assert a == b


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.filterwarnings("ignore::balancers.BalancerWarning")
def test_a_run_may_change_between_host_and_device(recipe):
    """With masks, as on a device, each task comes to have its own count of steps."""
    steps = [([1.0, 2.0, 3.0], [3.0, 0.5, 1.0]), ([0.9, 1.0, 2.9], [2.0, 0.7, 1.5])] * 3
    host, mixed = (balancer_of(recipe, 3, torch.float64) for _ in range(2))
    for k, step in enumerate(steps):
        losses, norms = (torch.tensor(row, dtype=torch.float64) for row in step)
        host._end_step(losses, norms)
        if k % 2:
            mixed._end_step(losses, norms)
        else:
            with as_device():
                mixed._end_step(losses, norms)
    torch.testing.assert_close(mixed.weights, host.weights, rtol=1e-9, atol=0)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e308])
@pytest.mark.parametrize("where", ["losses", "norms"])
@pytest.mark.filterwarnings("ignore::balancers.BalancerWarning")
def test_numbers_that_are_too_large_change_nothing_that_tensors_would_not(recipe, bad, where):
    one = balancer_of(recipe, 2, torch.float64)
    one._end_step(torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 1.0]).double())
    two = copy.deepcopy(one)
    rows = {"losses": [1.0, 2.0], "norms": [1.0, 2.0]}
    rows[where] = [1.0, bad]
    if bad == 1e308:
        rows[where] = [bad, bad]  # their sum is infinite
    with pytest.MonkeyPatch.context() as patch:
        step = [(rows["losses"], rows["norms"])]
        (ours,) = moved(one, step, torch.float64, False, patch)
        (theirs,) = moved(two, step, torch.float64, True, patch)
    torch.testing.assert_close(ours["w"], theirs["w"], equal_nan=True)
    assert int(ours["not_finite"]) == int(theirs["not_finite"])


def test_more_tasks_than_python_is_fast_with_move_by_tensors(monkeypatch):
    seen, plain = [], gradnorm.balance
    monkeypatch.setattr(gradnorm, "balance", lambda now: seen.append(now.w.numel()) or plain(now))
    for T in (64, 65):
        balancer = balancer_of("paper", T, torch.float32)
        balancer._end_step(torch.ones(T), torch.ones(T))
    assert seen == [65]


def test_the_weights_of_a_step_stay_what_they_were():
    """A record's w and r are tensors of their own, not views of what the next step writes."""
    network = TinyNetwork()
    balancer = GradNorm.paper(list(TASKS), network.shared)
    balancer.backward(network.losses())
    record = balancer.last
    kept = [record.weights.clone(), record.rates.clone()]
    for _ in range(3):
        balancer.backward(network.losses())
    assert torch.equal(record.weights, kept[0])
    assert torch.equal(record.rates, kept[1])
