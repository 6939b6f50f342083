"""Every balancer and every setting that changes its path passes the conformance class."""

import pytest

from balancers import Equal, Frozen, GradNorm, SingleTask, Static, Uncertainty
from balancers.testing import BalancerConformance


class TestStatic(BalancerConformance):
    def make(self, tasks, shared):
        return Static(tasks, {"near": 1.0, "far": 0.2, "odd": 0.01})


class TestEqual(BalancerConformance):
    def make(self, tasks, shared):
        return Equal(tasks)


class TestSingleTask(BalancerConformance):
    def make(self, tasks, shared):
        return SingleTask(tasks, "far")

    def _others_train(self, network, balancer):
        """Its task is the absent one."""
        assert all(p.grad is None or not p.grad.any() for p in network.parameters())


class TestUncertainty(BalancerConformance):
    def make(self, tasks, shared):
        return Uncertainty(tasks)


@pytest.mark.parametrize("_rule", ["loss", "gradient"])
class TestFrozen(BalancerConformance):
    @pytest.fixture(autouse=True)
    def _choose(self, _rule):
        self.rule = _rule

    def make(self, tasks, shared):
        return Frozen(tasks, self.rule, shared)


SETTINGS = {
    "paper": {},
    "log": {"parametrization": "log"},
    "robust": {"parametrization": "log", "initial_weights": "balanced"},
    "annealed": {"parametrization": "log", "initial_weights": "balanced", "decay_steps": 6},
    "direct": {"parametrization": "direct", "initial_weights": "balanced"},
    "direct, every": {"parametrization": "direct", "update_every": 2, "smoothing": 0.5},
    "given": {"initial_weights": {"near": 3.0, "far": 2.0, "odd": 1.0}},
    "every": {"update_every": 3},
    "freeze": {"freeze_after": 4, "parametrization": "log"},
    "frozen from the start": {"freeze_after": 0, "initial_weights": "balanced"},
    "every and freeze": {"update_every": 2, "freeze_after": 7, "initial_weights": "balanced"},
    "task by task": {"one_pass": False, "parametrization": "log", "initial_weights": "balanced"},
    "losses": {"initial_losses": {"near": 1.0, "far": 30.0, "odd": 900.0}},
}


@pytest.mark.filterwarnings("ignore:A weight reached its floor")
@pytest.mark.parametrize("_name", SETTINGS)
class TestGradNorm(BalancerConformance):
    @pytest.fixture(autouse=True)
    def _choose(self, _name):
        self.settings = SETTINGS[_name]

    def make(self, tasks, shared):
        return GradNorm(tasks, shared, alpha=0.7, **self.settings)
