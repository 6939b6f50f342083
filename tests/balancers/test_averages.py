"""The averages in constant memory against averages of the whole path; the vector Adam against torch's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from balancers.adam import VectorAdam
from balancers.averages import TrajectoryMean


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2000), st.floats(0, 0.99), st.integers(0, 100))
def test_means_are_those_of_the_whole_path(steps, start, seed):
    path = torch.rand(steps, 3, generator=torch.Generator().manual_seed(seed)).double() + 0.01
    means = TrajectoryMean(3)
    means.to(path)
    for w in path:
        means.add(w)
    wanted = int(start * steps)
    first = wanted // means._length * means._length
    assert wanted - first <= max(0, math.ceil(steps / 128))
    torch.testing.assert_close(means.mean("arithmetic", start), path[first:].mean(0))
    torch.testing.assert_close(means.mean("geometric", start), path[first:].log().mean(0).exp())
    assert means._sums.shape == (2, 256, 3)


def test_adam_is_torch_adam():
    generator = torch.Generator().manual_seed(0)
    w = torch.ones(4, requires_grad=True)
    theirs, ours, position = torch.optim.Adam([w], lr=0.025), VectorAdam(4, 0.025), torch.ones(4)
    for _ in range(50):
        gradient = torch.randn(4, generator=generator)
        w.grad = gradient.clone()
        theirs.step()
        ours.move(position, gradient, torch.tensor(0.0))
    torch.testing.assert_close(position, w.detach())


def test_a_refused_step_changes_nothing_in_adam():
    ours = VectorAdam(2, 0.1)
    position = torch.zeros(2)
    ours.move(position, torch.tensor([1.0, -1.0]), torch.tensor(0.0))
    moved, before = position.clone(), ours.state_dict()
    assert not torch.equal(moved, torch.zeros(2))
    ours.move(position, torch.tensor([float("nan"), 1.0]), torch.tensor(1.0))
    assert torch.equal(position, moved)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize(("kind", "start"), [("median", 0.0), ("arithmetic", 1.0), ("geometric", -0.1)])
def test_refuses_unknown_averages(kind, start):
    from balancers import Uncertainty

    with pytest.raises(ValueError, match=": expected "):
        Uncertainty(["a"]).mean_weights(kind, start)
