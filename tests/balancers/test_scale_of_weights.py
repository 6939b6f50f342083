"""The effect of the weights' scale on SGD and Adam, on quadratics with known steps. Said in docs/balancers.md.

Each task has a parameter x_i of its own and a shared one: ``L_i = (x_i - a_i)**2 / 2 + (s - b_i)**2 / 2``.
"""

import pytest
import torch

from balancers import Static

TASKS = ["near", "far", "wide"]
TARGETS = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
OF_SHARED = torch.tensor([3.0, 0.5, -1.0], dtype=torch.float64)
UNEQUAL = {"near": 0.05, "far": 0.45, "wide": 2.5}  # sum 3, as all weights of three tasks
LR = 0.1


class Scaled(Static):
    """Weights that do not sum to T: a multiple of those that do."""

    sums_to_T = False

    def __init__(self, tasks, weights, scale):
        super().__init__(tasks, weights)
        self._w = scale * self._w


def train(optimizer, weights, steps=5, scale=1.0):
    """Positions before and after each step: own parameters and shared one, shape (steps + 1, 4)."""
    torch.set_default_dtype(torch.float64)
    try:
        x = [torch.zeros((), requires_grad=True) for _ in TASKS]
        s = torch.zeros((), requires_grad=True)
        balancer, step = Scaled(TASKS, weights, scale), optimizer([*x, s])
        path = [torch.stack([*x, s]).detach()]
        for _ in range(steps):
            step.zero_grad()
            balancer.backward(
                {task: ((x[i] - TARGETS[i]) ** 2 + (s - OF_SHARED[i]) ** 2) / 2 for i, task in enumerate(TASKS)}
            )
            step.step()
            path.append(torch.stack([*x, s]).detach())
        return torch.stack(path)
    finally:
        torch.set_default_dtype(torch.float32)


def sgd(lr=LR, **settings):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr, **settings)


def adam(lr=LR, eps=0.0, **settings):
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, eps=eps, **settings)


def adamw(lr=LR, weight_decay=0.3):
    return lambda parameters: torch.optim.AdamW(parameters, lr=lr, eps=0.0, weight_decay=weight_decay)


def test_sgd_moves_what_a_task_owns_at_a_rate_of_its_weight():
    """``x_i(t) = a_i (1 - (1 - lr w_i)**t)``: a rate of lr w_i."""
    w = torch.tensor(list(UNEQUAL.values()), dtype=torch.float64)
    path = train(sgd(), UNEQUAL, steps=5)
    for t in range(6):
        torch.testing.assert_close(path[t, :3], TARGETS * (1 - (1 - LR * w) ** t))


def test_sgd_moves_what_tasks_share_at_a_rate_of_the_sum_of_weights():
    """``s`` goes to the weighted mean of the b_i at a rate of ``lr sum_i w_i = lr T``, for all w."""
    w = torch.tensor(list(UNEQUAL.values()), dtype=torch.float64)
    mean = (w * OF_SHARED).sum() / 3
    path = train(sgd(), UNEQUAL, steps=5)
    for t in range(6):
        torch.testing.assert_close(path[t, 3], mean * (1 - (1 - LR * 3) ** t))


def test_adam_moves_what_a_task_owns_alike_for_all_weights():
    torch.testing.assert_close(train(adam(), UNEQUAL)[:, :3], train(adam(), dict.fromkeys(TASKS, 1.0))[:, :3])
    first = train(adam(), UNEQUAL, steps=1)[1, :3]
    torch.testing.assert_close(first, LR * TARGETS.sign())  # the first step of Adam is lr, whatever the gradient


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_weights_twice_as_large_are_a_learning_rate_twice_as_large_in_sgd(settings):
    twice = train(sgd(**settings), UNEQUAL, scale=2.0)
    torch.testing.assert_close(twice, train(sgd(lr=2 * LR, **settings), UNEQUAL))
    assert not torch.allclose(twice, train(sgd(**settings), UNEQUAL))


@pytest.mark.parametrize("optimizer", [adam(), adam(amsgrad=True), adamw()], ids=["Adam", "AMSGrad", "AdamW"])
def test_weights_twice_as_large_change_nothing_in_adam(optimizer):
    """So does AdamW, whose decay knows no gradient."""
    torch.testing.assert_close(train(optimizer, UNEQUAL, scale=2.0), train(optimizer, UNEQUAL))


def test_eps_of_adam_limits_this_to_gradients_far_above_it():
    """The first step is ``lr |w g| / (|w g| + eps)``."""
    eps, w = 1e-2, torch.tensor(list(UNEQUAL.values()), dtype=torch.float64)
    first = train(adam(eps=eps), UNEQUAL, steps=1)[1, :3]
    size = (w * TARGETS).abs()
    torch.testing.assert_close(first, LR * TARGETS.sign() * size / (size + eps))


def test_a_decay_in_the_gradient_counts_more_where_a_weight_is_small():
    """SGD with weight decay rests where ``w_i (x_i - a_i) + decay x_i = 0``: at ``a_i w_i / (w_i + decay)``."""
    decay, w = 0.3, torch.tensor(list(UNEQUAL.values()), dtype=torch.float64)
    path = train(sgd(lr=0.5, weight_decay=decay), UNEQUAL, steps=120)
    torch.testing.assert_close(path[-1, :3], TARGETS * w / (w + decay))
    twice = train(sgd(lr=0.25, weight_decay=2 * decay), UNEQUAL, steps=120, scale=2.0)
    torch.testing.assert_close(twice, path)  # weights and decay twice as large, half the learning rate


def test_a_decay_in_the_gradient_takes_adam_the_same_way():
    """Weights and decay twice as large change nothing, so weights twice as large are half the decay."""
    twice = train(adam(weight_decay=0.6), UNEQUAL, scale=2.0)
    torch.testing.assert_close(twice, train(adam(weight_decay=0.3), UNEQUAL))
    assert not torch.allclose(train(adam(weight_decay=0.3), UNEQUAL, scale=2.0), twice)


def test_a_decay_apart_from_the_gradient_does_not_see_the_weights():
    """AdamW moves what a task owns alike for all weights, its decay too."""
    torch.testing.assert_close(train(adamw(), UNEQUAL)[:, :3], train(adamw(), dict.fromkeys(TASKS, 1.0))[:, :3])


def test_a_limit_on_the_norm_of_the_gradient_takes_the_scale_away():
    """Clipping makes SGD's step independent of the weights' scale, where it takes effect."""

    def clipped(parameters):
        step = sgd()(parameters)
        step.register_step_pre_hook(lambda *_: torch.nn.utils.clip_grad_norm_(parameters, 0.1) and None)
        return step

    torch.testing.assert_close(train(clipped, UNEQUAL, scale=2.0), train(clipped, UNEQUAL), rtol=1e-5, atol=0)
