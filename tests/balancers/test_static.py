"""Fixed weights and the weights file."""

import json
import subprocess
import sys

import pytest
import torch

from balancers import Frozen, SingleTask, Static
from balancers.testing import TASKS, TinyNetwork
from balancers.weights_file import SCHEMA, VERSION

GOOD = {"schema": SCHEMA, "version": VERSION, "tasks": ["a", "b"], "weights": {"a": 1.5, "b": 0.5}}


def write(tmp_path, content):
    path = tmp_path / "weights.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_loads_in_the_order_of_the_user(tmp_path):
    path = write(tmp_path, GOOD)
    assert Static.load(path).weights.tolist() == [1.5, 0.5]
    assert Static.load(path, tasks=["b", "a"]).weights.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "other"}, "schema"),
        ({"version": 99}, "99"),
        ({"tasks": []}, "tasks"),
        ({"weights": {"a": 1.0}}, "missing ['b']"),
        ({"weights": {"a": 1.0, "b": 1.0, "c": 1.0}}, "unknown ['c']"),
        ({"weights": {"a": 1.0, "b": 0.0}}, "'b'"),
        ({"weights": {"a": 1.0, "b": float("nan")}}, "nan"),
        ({"weights": {"a": 1.0, "b": float("inf")}}, "inf"),
        ({"weights": {"a": 1.0, "b": "1"}}, "'1'"),
        ({"weights": {"a": 1.0, "b": True}}, "True"),
        ({"weights": [1.0, 2.0]}, "object"),
    ],
)
def test_refuses_a_bad_file_and_says_what(tmp_path, change, words):
    with pytest.raises(ValueError, match=r"weights\.json") as error:
        Static.load(write(tmp_path, GOOD | change))
    assert words in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "\x00"])
def test_refuses_what_is_no_weights_file(tmp_path, content):
    with pytest.raises(ValueError, match=r"weights\.json"):
        Static.load(write(tmp_path, content))


def test_refuses_other_tasks_than_the_networks(tmp_path):
    with pytest.raises(ValueError, match=r"missing \['c'\], unknown \['b'\]"):
        Static.load(write(tmp_path, GOOD), tasks=["a", "c"])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_refuses_bad_weights(weight):
    with pytest.raises(ValueError, match=r"weights\['b'\]"):
        Static(["a", "b"], {"a": 1.0, "b": weight})


@pytest.mark.parametrize("rule", ["loss", "gradient"])
def test_frozen_weights_are_inverse_to_what_the_first_step_measured(rule):
    network = TinyNetwork()
    losses = network.losses()
    measured = []
    for task in TASKS:
        gradient = torch.autograd.grad(losses[task], list(network.shared.parameters()), retain_graph=True)
        measured.append(losses[task] if rule == "loss" else torch.cat([g.flatten() for g in gradient]).norm())
    balancer = Frozen(list(TASKS), rule, network.shared)
    balancer.backward(losses)
    product = balancer.weights * torch.stack(measured).detach()
    torch.testing.assert_close(product, product.mean().expand(3))


def test_production_imports_torch_alone():
    """The package that production imports pulls in nothing but torch."""
    code = (
        "import sys; before = set(sys.modules); import torch; known = set(sys.modules); import balancers;"
        "new = {m.split('.')[0] for m in set(sys.modules) - known};"
        "print(sorted(new - set(sys.stdlib_module_names) - {'balancers', 'torch'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_single_task_is_not_touched_by_the_losses_of_the_others():
    network = TinyNetwork()
    losses = network.losses()
    losses["odd"] = losses["odd"] * float("nan")
    SingleTask(list(TASKS), "far").backward(losses)
    assert all(bool(parameter.grad.isfinite().all()) for parameter in network.trunk.parameters())
    assert network.heads["odd"].weight.grad is None
