"""The outputs of a balancer: its state, its warnings, its weights file."""

import warnings

import pytest
import torch

from balancers import BalancerWarning, Equal, Frozen, GradNorm, Static, Uncertainty
from balancers.testing import TASKS, TinyNetwork
from balancers.torchjd_methods import torchjd_balancer

KINDS = {
    "paper": GradNorm.paper,
    "robust": GradNorm.robust,
    "annealed": lambda tasks, W: GradNorm.annealed(tasks, W, decay_steps=9),
    "direct": GradNorm.direct,
    "first losses": lambda tasks, W: Frozen(tasks, "loss"),
    "first gradients": lambda tasks, W: Frozen(tasks, "gradient", W),
    "equal": lambda tasks, W: Equal(tasks),
    "static": lambda tasks, W: Static(tasks, dict.fromkeys(tasks, 1.0)),
    "uncertainty": lambda tasks, W: Uncertainty(tasks),
    "dwa": lambda tasks, W: torchjd_balancer("dwa", tasks),
    "mgda": lambda tasks, W: torchjd_balancer("mgda", tasks),
    "pcgrad": lambda tasks, W: torchjd_balancer("pcgrad", tasks),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_another_recipe_is_refused(kind):
    network = TinyNetwork()
    state = KINDS[kind](list(TASKS), network.shared).state_dict()
    for name, make in KINDS.items():
        other = make(list(TASKS), network.shared)
        if name == kind:
            other.load_state_dict(state)
            continue
        with pytest.raises(ValueError, match="state: expected a state of") as error:
            other.load_state_dict(state)
        assert state["kind"] in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_version_0_1_loads(kind):
    """It lacks entries that were added later."""
    network = TinyNetwork()
    balancer = KINDS[kind](list(TASKS), network.shared)
    for _ in range(3):
        balancer.backward(network.losses())
    state = {key: value for key, value in balancer.state_dict().items() if key not in type(balancer).optional}
    if "window" in state:
        del state["window"]["counts"]
    other = KINDS[kind](list(TASKS), network.shared)
    other.load_state_dict(state)
    for one in (balancer, other):
        one.backward(network.losses())
    torch.testing.assert_close(other._w, balancer._w)


def test_each_cause_warns_once_and_notes_have_the_last_count():
    network = TinyNetwork()
    balancer = GradNorm.robust(list(TASKS), network.shared)
    balancer.backward(network.losses())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(5):
            losses = network.losses()
            balancer.backward({**losses, "far": losses["far"] * torch.inf})
            balancer.backward(
                {**losses, "far": 0 * network.losses()["far"], "near": network.losses()["near"]}
                | {"odd": network.losses()["odd"]}
            )
            _ = balancer.weights, balancer.mean_weights(), balancer.state_dict()
    assert [w.category for w in told] == [BalancerWarning, BalancerWarning]
    assert all(w.filename == __file__ for w in told)
    assert [note.split(":")[0] for note in balancer.notes()] == [
        "5 steps had a loss or gradient that is not finite; the weights stayed as they were in them. A few at the "
        "start are GradScaler's search for its scale.",
        "Task `far` was absent in 5 steps, with a loss of 0 or NaN",
    ]


def test_weights_go_to_a_file_that_static_reads(tmp_path):
    network = TinyNetwork()
    balancer = GradNorm.robust(list(TASKS), network.shared)
    for _ in range(5):
        balancer.backward(network.losses())
    balancer.save(tmp_path / "weights.json")
    torch.testing.assert_close(Static.load(tmp_path / "weights.json", TASKS).weights, balancer.mean_weights())
    assert [path.name for path in tmp_path.iterdir()] == ["weights.json"]


def test_weights_that_no_file_can_hold_are_refused(tmp_path):
    balancer = Static(["a", "b"], {"a": 1.0, "b": 1.0})
    balancer._w = torch.tensor([2.0, 0.0])
    with pytest.raises(ValueError, match=r"weights\['b'\]: expected a finite number > 0"):
        balancer.save(tmp_path / "weights.json")
    assert not list(tmp_path.iterdir())


def test_repr_names_recipe_weights_and_step():
    balancer = GradNorm.direct(["depth", "normals"], torch.nn.Linear(2, 2))
    assert repr(balancer) == "GradNorm (direct)({depth: 1, normals: 1}, step 0)"
    assert balancer.as_dict() == {"depth": 1.0, "normals": 1.0}
