"""GradNorm."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from balancers import parametrizations
from balancers.adaptive import Adaptive
from balancers.balance import Measurement, balance
from balancers.base import StepRecord, close, column, fail, per_task, warn
from balancers.deferred import deferred
from balancers.gradnorm_settings import Name, check_settings, parametrization_of
from balancers.measured_backward import Path, measured_backward
from balancers.shared_gradients import (
    Shared,
    TaskGradients,
    mean_over_ranks,
    norms_of,
    parameters_of,
    task_gradients,
)
from balancers.window import Window


class GradNorm(Adaptive):
    """GradNorm: Chen, Badrinarayanan, Lee, Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss
    Balancing in Deep Multitask Networks", ICML 2018, https://arxiv.org/abs/1711.02257, Algorithm 1.

    At each step the network trains on ``sum_i w_i(t) L_i``; then w moves so that the gradient norms
    ``G_i = ||grad_W w_i L_i||_2`` come closer to their targets::

        L_grad = sum_i | G_i - Gbar * r_i ** alpha |      Gbar = mean_i G_i
        r_i = Ltilde_i / mean_j Ltilde_j                  Ltilde_i = L_i(t) / L_i(0)

    W is the last layer that all tasks share. A task that trains slowly has r_i > 1, hence a larger target and a
    growing weight, the more so the larger alpha. The target is a constant when L_grad is differentiated, with
    respect to w only; the network's gradient is never touched by L_grad. After each move w is scaled to sum to T.

    Where we deviate: w is kept at or above ``floor`` in the paper's parametrisation, where it can otherwise reach 0
    or below (`floor_hits` counts this). `robust`, `annealed` and `direct` are recipes of ours.

    Args:
        tasks: names of the T tasks.
        shared: W: a module (all its parameters), a parameter, or a list of parameters.
        alpha: strength of the restoring force, >= 0; the paper used 0.12 (toy data) to 3 (NYUv2). At 0 all
            gradient norms are pulled to their mean.
        parametrization: ``"linear"`` moves w (the paper), ``"log"`` moves ln w, so that w > 0 by construction;
            ``"direct"`` sets w where all norms are in proportion to their targets, by moving averages of norms and
            losses, and has no learning rate (`balancers.direct.Direct`).
        initial_weights: ``"ones"`` (the paper), ``"balanced"`` (w_i proportional to ``1/||grad_W L_i(0)||`` of the
            first step), or a number > 0 for each task.
        initial_losses: L_i(0): ``"first"`` (of the first step) or a number > 0 for each task, for instance log(C)
            for cross-entropy over C classes (the paper's footnote 2).
        lr: learning rate of the weights' Adam; the paper's 0.025.
        decay_steps: let the learning rate fall linearly to 0 over so many steps, as a rule the whole run; w then
            stays. ``None`` (the paper) keeps it.
        smoothing: of the moving averages in the direct parametrisation, in [0, 1).
        update_every: measure gradients and move w at every so many steps; the others cost what a static step costs.
        freeze_after: keep w from this step on.
        floor: smallest w in the linear parametrisation.
        accumulate: backward passes that make one step (gradient accumulation). `backward` then fills ``.grad`` with
            the mean over them; the loss that a call returns is to be divided by the caller, as frameworks do. w moves
            once a step, by the gradients of the whole, as in one large batch; `end_epoch` ends a step early.
        one_pass: ``False`` takes the T gradients task by task even where the graph can be cut; see `path`.

    Raises:
        ValueError: a parameter out of its range; in the first step a loss L_i(0) that is not finite and above 0, or,
            if balanced, a task without gradient on the shared layer; a loss that does not depend on it.

    >>> import torch
    >>> from balancers import GradNorm
    >>> _ = torch.manual_seed(0)
    >>> trunk, depth, normals = (torch.nn.Linear(4, n) for n in (4, 1, 1))
    >>> balancer = GradNorm(tasks=["depth", "normals"], shared=trunk, alpha=1.5)
    >>> features = trunk(torch.randn(8, 4)).relu()
    >>> losses = {"depth": 100 * depth(features).square().mean(), "normals": normals(features).square().mean()}
    >>> balancer.backward(losses)
    >>> balancer.weights
    tensor([0.9750, 1.0250])
    """

    def __init__(
        self,
        tasks: Sequence[str],
        shared: Shared,
        alpha: float = 1.5,
        *,
        parametrization: Name = "linear",
        initial_weights: Literal["ones", "balanced"] | Mapping[str, float] = "ones",
        initial_losses: Literal["first"] | Mapping[str, float] = "first",
        lr: float = 0.025,
        decay_steps: int | None = None,
        smoothing: float = 0.99,
        update_every: int = 1,
        freeze_after: int | None = None,
        floor: float = 1e-3,
        accumulate: int = 1,
        one_pass: bool = True,
    ) -> None:
        super().__init__(tasks)
        check_settings(alpha, smoothing, update_every, freeze_after, floor, accumulate)
        self.alpha: float | Tensor = alpha  # a tensor of shape (K, 1) for K balancers in one
        self.parametrization, self.lr, self.decay_steps, self.floor = parametrization, lr, decay_steps, floor
        self.update_every, self.freeze_after = update_every, freeze_after
        self._moving = parametrization_of(parametrization, len(self.tasks), lr, decay_steps, floor, smoothing)
        self._parameters = parameters_of(shared)
        self._unbalanced = initial_weights == "balanced"  # until the first gradients are there
        self._window = Window(accumulate)
        self._path = None if one_pass else Path("task by task", "asked for by `one_pass = False`")
        self._one_pass = one_pass
        if not isinstance(initial_weights, str):
            self._w = close(per_task("initial_weights", initial_weights, self.tasks))
        elif initial_weights not in ("ones", "balanced"):
            fail("initial_weights", "'ones', 'balanced' or a number for each task", repr(initial_weights))
        self._initial_losses: Tensor | None = None  # L(0)
        if not isinstance(initial_losses, str):
            self._initial_losses = per_task("initial_losses", initial_losses, self.tasks)
        elif initial_losses != "first":
            fail("initial_losses", "'first' or a number for each task", repr(initial_losses))
        self._floor_reported = False

    @classmethod
    def paper(cls, tasks: Sequence[str], shared: Shared, alpha: float = 1.5, **settings: Any) -> Self:
        """The paper's recipe: w itself moves, from ones, towards L(0) of the first step."""
        return cls(tasks, shared, alpha, **{"parametrization": "linear", "initial_weights": "ones"} | settings)

    @classmethod
    def robust(cls, tasks: Sequence[str], shared: Shared, alpha: float = 0.5, **settings: Any) -> Self:
        """Our recipe for losses of unlike scales: ln w moves, from weights that balance the first gradients.

        The paper's recipe walks in steps of about 0.025 from w = 1 and may spend a short run on the way.
        """
        return cls(tasks, shared, alpha, **{"parametrization": "log", "initial_weights": "balanced"} | settings)

    @classmethod
    def annealed(
        cls, tasks: Sequence[str], shared: Shared, alpha: float = 0.5, *, decay_steps: int, **settings: Any
    ) -> Self:
        """The robust recipe whose learning rate of w falls to 0 over the run: at its end the weights stand still."""
        return cls.robust(tasks, shared, alpha, decay_steps=decay_steps, **settings)

    @classmethod
    def direct(cls, tasks: Sequence[str], shared: Shared, alpha: float = 0.5, **settings: Any) -> Self:
        """Weights that put all norms in proportion to their targets: no learning rate; see `balancers.direct`."""
        return cls(tasks, shared, alpha, **{"parametrization": "direct", "initial_weights": "balanced"} | settings)

    @property
    def initial_losses(self) -> Tensor | None:
        """L(0), shape (T,); ``None`` before the first step if it is taken from there."""
        return None if self._initial_losses is None else self._initial_losses.clone()

    @property
    def floor_hits(self) -> int:
        """How often a weight was stopped at the floor. Reading it waits for the device."""
        hits = self._moving.floor_hits
        return 0 if hits is None else int(hits.sum())

    @property
    def path(self) -> Path | None:
        """How the last step that moved w took the T gradients, and why; ``None`` before the first.

        ``"one pass"``: all heads and the trunk ran once. ``"task by task"``: each loss ran back to W by itself
        first, since the graph has no place where the tasks' gradients could be told apart.
        """
        return self._path

    def __call__(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum ``sum_i w_i(t) L_i``, a scalar; its ``backward()`` moves w to w(t+1).

        In a step that moves w the scalar's graph is one node, which runs the one backward pass when it is asked for
        its gradient: use ``.backward()`` on it, or on a multiple of it (GradScaler, gradient accumulation), or on its
        sum with terms that do not share the losses' graph; ``torch.autograd.grad`` of it gives nothing.

        Args:
            losses: for each task a scalar loss with its graph.

        Raises:
            ValueError: see `Balancer.__call__`; also, when its gradient is asked for, as `GradNorm` says.
        """
        L = self._collect(losses)
        if self._measures():
            return deferred((self._w * L.detach()).sum(), lambda scale: self._train(losses, L, scale))
        loss = (self._w * L).sum()
        self._close(L.detach())
        return loss

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """See `Balancer.backward`."""
        L = self._collect(losses)
        scale = None if self._window.size == 1 else L.new_tensor(1 / self._window.size)
        if self._measures():
            self._train(losses, L, scale)
            return
        torch.autograd.backward(L, self._w if scale is None else self._w * scale)
        self._close(L.detach())

    def _train(self, losses: Mapping[str, Tensor], L: Tensor, scale: Tensor | None) -> None:
        """Fill ``.grad`` with the gradient of ``scale sum_i w_i L_i`` and measure, in one pass where it can be."""
        ordered, values = [losses[task] for task in self.tasks], L.detach()
        if self._step == 0 or self._unbalanced:
            self._start(ordered, values, scale)
        factors = self._w if scale is None else self._w * scale
        if not self._moves():
            torch.autograd.backward(L, factors)
            self._close(values)
            return
        gradients = TaskGradients(self._parameters, len(self.tasks), keep=self._window.size > 1, scale=scale)
        self._path = measured_backward(ordered, self.tasks, L, factors, gradients, self._one_pass)
        self._close(values, gradients)

    def _close(self, values: Tensor, gradients: TaskGradients | None = None) -> None:
        """Close a step, or a part of one: w moves where the gradients w_i grad_W L_i are given."""
        if self._window.size > 1:
            self._close_window(self._window.add(values, gradients.rows() if gradients else []))
        else:
            self._end_step(values, gradients.norms() if gradients else None)

    def _close_window(self, whole: tuple[Tensor, list[Tensor]] | None) -> None:
        if whole is not None:
            values, rows = whole
            self._end_step(values, norms_of(mean_over_ranks(*rows)) if rows else None)

    def end_epoch(self) -> None:
        """See `Balancer.end_epoch`. Frameworks step at the end of an epoch, be the accumulation full or not."""
        self._close_window(self._window.close())

    def _end_step(self, values: Tensor, norms: Tensor | None) -> None:
        if norms is not None:
            self._rebalance(mean_over_ranks(values)[0], norms)
            return
        if self._initial_losses is None:
            self._initial_losses = values.clone()
        self._used(StepRecord(self._w, values))

    def _rebalance(self, values: Tensor, G: Tensor) -> None:
        """Move w by G_i, shape (T,), and close the step."""
        if self._initial_losses is None:
            self._initial_losses = values.clone()
        w, G = self._w, G.to(values)
        now = balance(G, values, self._initial_losses, self.alpha)
        measured = Measurement(w, G, values, self._initial_losses, self.alpha)
        self._w, refused = self._moving.next(measured, now, self._step)
        self._not_finite += refused
        self._used(StepRecord(w, values, G, now.rates))

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        L0 = self._initial_losses
        own = {
            "initial_losses": None if L0 is None else L0.clone(),
            "unbalanced": self._unbalanced,
            "window": self._window.state_dict(),
        }
        return super().state_dict() | parametrizations.blank(self._w) | self._moving.state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        L0 = state["initial_losses"]
        self._initial_losses = None if L0 is None else L0.clone()
        self._unbalanced = bool(state["unbalanced"])
        self._moving.load_state_dict(state)
        self._window.load_state_dict(state["window"])

    def _alike(self) -> tuple[Hashable, ...]:
        given = self._initial_losses is not None
        own = (self.update_every, self.freeze_after, self._unbalanced, given)
        return *super()._alike(), *own, *self._moving.alike()

    def _merge(self, others: Sequence[Self]) -> None:
        self.alpha = column([other.alpha for other in others])
        self._moving.merge([other._moving for other in others])

    def _moves(self) -> bool:
        """Whether this step moves w."""
        frozen = self.freeze_after is not None and self._step >= self.freeze_after
        return not frozen and self._step % self.update_every == 0

    def _measures(self) -> bool:
        """Whether this step needs gradients of W: it moves w, or w has yet to be settled."""
        return self._moves() or self._step == 0 or self._unbalanced

    def _start(self, losses: Sequence[Tensor], values: Tensor, scale: Tensor | None) -> None:
        """Look at the first losses and gradients and balance w(0). The one place that waits for the device.

        Gradients that overflow under a GradScaler, as its first steps may, leave the balance to the next step.
        """
        self._begin(values, None)
        factors = torch.ones_like(values) if scale is None else scale.expand_as(values)
        gradients = TaskGradients(self._parameters, len(self.tasks), scale=scale)
        task_gradients(losses, self.tasks, factors, gradients)
        if not self._unbalanced:
            return
        norms = gradients.norms().to(values)
        if scale is None or bool(norms.isfinite().all()):
            self._begin(values, norms)

    def _begins_with_norms(self) -> bool:
        return self._unbalanced

    def _begin(self, values: Tensor, norms: Tensor | None) -> None:
        """Refuse first losses that have no rates, and settle balanced weights by the norms."""
        T = len(self.tasks)
        for task, loss in zip(self.tasks * (values.numel() // T), values.flatten().tolist(), strict=True):
            if not 0 < loss < float("inf"):
                fail(f"losses[{task!r}]", "finite and > 0 in the first step", loss)
        if norms is None or not self._unbalanced:
            return
        for task, norm in zip(self.tasks * (norms.numel() // T), norms.flatten().tolist(), strict=True):
            if not 0 < norm < float("inf"):
                fail("initial_weights", f"'ones' where a gradient on the shared layer is {norm} ({task})", "balanced")
        self._w, self._unbalanced = close(1 / norms), False

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._moving.to(like)
        self._window.to(like)
        if self._initial_losses is not None:
            self._initial_losses = self._initial_losses.to(like)
        if isinstance(self.alpha, Tensor):
            self.alpha = self.alpha.to(like)

    def _report(self) -> None:
        super()._report()
        if not self._floor_reported and self.floor_hits:
            self._floor_reported = True
            warn(f"A weight reached its floor {self.floor}: consider GradNorm.direct, whose weights have none.")
