"""The registry of methods agrees with the packages that it draws on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from balancers.stack import STACKABLE
from balancers.torchjd_methods import NAMES
from hpo.training.methods import METHODS, build_balancer

SETTINGS: dict[str, dict[str, Any]] = {
    "static": {"weights": {"near": 1.5, "far": 0.5}},
    "single_task": {"task": "near"},
    "frozen": {"rule": "loss"},
    "gradnorm": {"recipe": "paper", "alpha": 0.5},
}


def test_every_method_of_torchjd_that_balancers_know_is_registered():
    assert set(NAMES) < set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_called_stackable_if_and_only_if_a_stack_takes_its_balancer(name):
    balancer = build_balancer(name, SETTINGS.get(name, {}), ["near", "far"], torch.nn.Linear(2, 2), steps=10)
    assert METHODS[name].stackable is (type(balancer) in STACKABLE)
