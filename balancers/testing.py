"""The conformance class that every balancer passes; subclass it in your tests, one line for a new balancer.

::

    class TestMine(BalancerConformance):
        def make(self, tasks, shared):
            return Mine(tasks, shared)
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from balancers.base import Balancer, BalancerWarning

TASKS = ("near", "far", "odd")


Given = dict[str, Tensor]
ABSENT: dict[str, Callable[[Given, str], dict[str, Tensor | None]]] = {
    "missing": lambda losses, task: {name: loss for name, loss in losses.items() if name != task},
    "None": lambda losses, task: {**losses, task: None},
    "0 without graph": lambda losses, task: {**losses, task: torch.tensor(0.0)},
    "0 that is a leaf": lambda losses, task: {**losses, task: torch.zeros((), requires_grad=True)},
    "0 times the loss": lambda losses, task: {**losses, task: 0 * losses[task]},
    "0 of another graph": lambda losses, task: {**losses, task: 0 * torch.ones((), requires_grad=True).exp()},
    "NaN": lambda losses, task: {**losses, task: losses[task] * torch.nan},
    "NaN of no example": lambda losses, task: {**losses, task: losses[task].expand(2)[:0].mean()},
}


class TinyNetwork(nn.Module):
    """A trunk of two layers with one linear head per task; the losses differ 1000-fold."""

    def __init__(self, tasks: tuple[str, ...] = TASKS, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6))
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in tasks})
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
        self.inputs = torch.randn(16, 5, generator=generator)
        self.targets = {task: torch.randn(16, 1, generator=generator) for task in tasks}

    @property
    def shared(self) -> nn.Module:
        """W: the last layer of the trunk."""
        return self.trunk[-1]

    def losses(self) -> dict[str, Tensor]:
        """A squared error for each task, times 1, 30, 900, ..."""
        features = self.trunk(self.inputs).tanh()
        return {
            task: 30.0**i * (head(features) - self.targets[task]).square().mean()
            for i, (task, head) in enumerate(self.heads.items())
        }


class BalancerConformance:
    """The tests that every balancer must pass. Override `make`; pytest collects the rest."""

    def make(self, tasks: list[str], shared: nn.Module) -> Balancer:
        """Create a balancer of the class under test."""
        raise NotImplementedError

    def _run(self, steps: int, backward: bool = True) -> tuple[TinyNetwork, Balancer, list[Tensor]]:
        network = TinyNetwork()
        balancer = self.make(list(TASKS), network.shared)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        seen = [self._step(network, balancer, optimizer, backward) for _ in range(steps)]
        return network, balancer, seen

    @staticmethod
    def _step(
        network: TinyNetwork, balancer: Balancer, optimizer: torch.optim.Optimizer, backward: bool = True
    ) -> Tensor:
        optimizer.zero_grad()
        if backward:
            balancer.backward(network.losses())
        else:
            balancer(network.losses()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return balancer.weights

    def test_gradient_is_that_of_the_weighted_sum(self) -> None:
        """``.grad`` is the gradient of ``sum_i w_i(t) L_i`` with the w that the record names, step after step."""
        network = TinyNetwork()
        balancer = self.make(list(TASKS), network.shared)
        for _ in range(3):
            network.zero_grad()
            balancer.backward(network.losses())
            assert balancer.last is not None
            expected = torch.autograd.grad(
                sum(w * L for w, L in zip(balancer.last.weights, network.losses().values(), strict=True)),
                list(network.parameters()),
                allow_unused=True,
            )
            for parameter, gradient in zip(network.parameters(), expected, strict=True):
                wanted = torch.zeros_like(parameter) if gradient is None else gradient
                found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    def test_call_styles_agree(self) -> None:
        """``backward`` and the returned loss train the same network with the same weights."""
        one, _, weights = self._run(5)
        two, _, others = self._run(5, backward=False)
        for left, right in zip(one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(left, right)
        torch.testing.assert_close(torch.stack(weights), torch.stack(others))

    def test_weights_keep_their_promises(self) -> None:
        """Shape, sum and sign of w(t) and of its averages."""
        _, balancer, weights = self._run(30)
        for w in [*weights, *(balancer.mean_weights(kind, 0.5) for kind in ("arithmetic", "geometric"))]:
            assert w.shape == (3,)
            assert not w.requires_grad
            if balancer.positive:
                assert bool((w > 0).all()), w
            if balancer.sums_to_T:
                torch.testing.assert_close(w.sum(), torch.tensor(3.0))

    def test_reading_weights_gives_a_copy(self) -> None:
        """Writing into the returned tensor does not change the balancer."""
        _, balancer, weights = self._run(2)
        balancer.weights.zero_()
        torch.testing.assert_close(balancer.weights, weights[-1])

    def test_continues_bit_for_bit(self) -> None:
        """Stopped at any step, saved, loaded safely and continued: the same weights and network as undisturbed."""
        whole, undisturbed, _ = self._run(12)
        for stop in (0, 1, 5):
            network, balancer, _ = self._run(stop)
            file = io.BytesIO()
            torch.save({"network": network.state_dict(), "balancer": balancer.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            other = TinyNetwork(seed=9)
            other.inputs, other.targets = network.inputs, network.targets
            other.load_state_dict(saved["network"])
            fresh = self.make(list(TASKS), other.shared)
            fresh.load_state_dict(saved["balancer"])
            optimizer = torch.optim.SGD(other.parameters(), lr=1e-4)
            for _ in range(12 - stop):
                self._step(other, fresh, optimizer)
            assert torch.equal(fresh.weights, undisturbed.weights)
            assert torch.equal(fresh.mean_weights("geometric", 0.5), undisturbed.mean_weights("geometric", 0.5))
            assert fresh.step == undisturbed.step
            for left, right in zip(whole.parameters(), other.parameters(), strict=True):
                assert torch.equal(left, right)

    def test_copies_and_pickles(self) -> None:
        """The state contains no graph."""
        network, balancer, weights = self._run(3)
        for twin in (copy.deepcopy(balancer), pickle.loads(pickle.dumps(balancer))):
            torch.testing.assert_close(twin.weights, weights[-1])
        held = [value for value in vars(balancer).values() if isinstance(value, Tensor)]
        assert all(value.grad_fn is None for value in held)
        del network

    def test_an_absent_task_keeps_its_weight_and_the_others_train(self) -> None:
        """Missing, ``None``, 0 with and without graph, NaN: in the first step and in later ones."""
        for kind, absent in ABSENT.items():
            for steps in (0, 3):
                network, balancer, _ = self._run(steps)
                before = balancer.weights
                network.zero_grad()
                balancer.backward(absent(network.losses(), "far"))
                after, gradients = _weights(balancer), [p.grad for p in network.parameters()]
                if steps:
                    torch.testing.assert_close(after[1], before[1], msg=kind)
                assert bool(after.isfinite().all()), kind
                assert all(bool(g.isfinite().all()) for g in gradients if g is not None), kind
                self._others_train(network, balancer)
                balancer.backward(network.losses())
                assert bool(_weights(balancer).isfinite().all()), kind

    def _others_train(self, network: TinyNetwork, balancer: Balancer) -> None:
        """``.grad`` is that of the weighted sum of the tasks that were there."""
        assert balancer.last is not None
        losses, parameters = network.losses(), list(network.parameters())
        w = dict(zip(TASKS, balancer.last.weights, strict=True))
        weighted = w["near"] * losses["near"] + w["odd"] * losses["odd"]
        wanted = torch.autograd.grad(weighted, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, wanted, strict=True):
            expected = torch.zeros_like(parameter) if gradient is None else gradient
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_a_step_without_any_task_moves_nothing(self) -> None:
        """An empty mapping, or nothing but ``None``, in both call styles."""
        _, balancer, weights = self._run(2)
        balancer.backward({})
        balancer(dict.fromkeys(TASKS)).backward()  # type: ignore[no-untyped-call]
        assert balancer.step == 2
        torch.testing.assert_close(balancer.weights, weights[-1])

    def test_a_call_that_only_looks_gives_the_weighted_sum_and_moves_nothing(self) -> None:
        """Under `torch.no_grad` and `torch.inference_mode`, and where no loss has a graph."""
        network, balancer, weights = self._run(2)
        state, losses = balancer.state_dict(), {task: loss.detach() for task, loss in network.losses().items()}
        wanted = (weights[-1] * torch.stack(list(losses.values()))).sum()
        for mode in (torch.no_grad(), torch.inference_mode(), torch.enable_grad()):
            with mode:
                found = balancer(losses)
                torch.testing.assert_close(found, wanted)
                assert not found.requires_grad
                without = balancer({task: None if task == "far" else losses[task] for task in TASKS})
                torch.testing.assert_close(without, wanted - weights[-1][1] * losses["far"], rtol=1e-4, atol=1e-4)
        after = balancer.state_dict()
        assert after["step"] == state["step"]
        assert torch.equal(after["w"], state["w"])
        assert "graph" in _refused(partial(balancer.backward, losses))

    def test_says_what_it_is(self) -> None:
        """`repr` and `as_dict` have each task's weight."""
        _, balancer, weights = self._run(2)
        assert list(balancer.as_dict()) == list(TASKS)
        assert list(balancer.as_dict().values()) == weights[-1].tolist()
        assert all(task in repr(balancer) for task in TASKS)

    def test_refuses_bad_losses(self) -> None:
        """An unknown task, a vector, a loss that has a value and no graph: ValueErrors that name it."""
        network = TinyNetwork()
        balancer = self.make(list(TASKS), network.shared)
        good = network.losses()
        bad: list[tuple[dict[str, Tensor], str]] = [
            ({**good, "extra": good["near"]}, "extra"),
            ({**good, "far": good["far"].repeat(2)}, "far"),
            ({**good, "far": good["far"].detach()}, "far"),
        ]
        for losses, name in bad:
            message = _refused(partial(balancer.backward, losses))
            assert name in message, message
        assert balancer.step == 0

    def test_refuses_the_state_of_other_tasks(self) -> None:
        """A state belongs to its tasks."""
        network = TinyNetwork()
        state = self.make(list(TASKS), network.shared).state_dict()
        reverse = self.make(list(reversed(TASKS)), network.shared)
        assert "tasks" in _refused(lambda: reverse.load_state_dict(state))


def _weights(balancer: Balancer) -> Tensor:
    """The weights, without the warnings that reading them gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BalancerWarning)
        return balancer.weights


def _refused(call: Callable[[], None]) -> str:
    """The message of the `ValueError` that the call must raise; pytest is not needed to import this module."""
    try:
        call()
    except ValueError as error:
        return str(error)
    raise AssertionError("bad input was taken")
