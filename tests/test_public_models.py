"""Recommenders of torch-rechub train with balancers as they are."""

import math

import pytest
import torch

from balancers import GradNorm
from benchmarks.public_models import mean, train
from benchmarks.public_recommenders import recommenders

STEPS, ENDS = 16, 5


@pytest.fixture(scope="module")
def models():
    return {public.name: public for public in recommenders(rows=2560)}


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads are slower than one in networks so small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MMOE", "PLE", "ESMM", "ESMM, sparse tables"])
def test_a_public_recommender_trains_in_one_pass(name, models):
    outcome = train(models[name], STEPS)
    balancer = outcome.gradnorm.balancer
    assert isinstance(balancer, GradNorm)
    assert balancer.path.name == "one pass", balancer.path
    assert not balancer.notes()
    w = balancer.as_dict()
    assert math.isclose(sum(w.values()), len(w), rel_tol=1e-5)
    for training in (outcome.static, outcome.gradnorm):
        assert {len(losses) for losses in training.losses.values()} == {STEPS}
        falls = [mean(losses[-ENDS:]) / mean(losses[:ENDS]) for losses in training.losses.values()]
        assert mean(falls) < 1
