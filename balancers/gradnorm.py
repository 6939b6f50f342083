"""GradNorm."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor

from balancers import parametrizations
from balancers.adaptive import Adaptive
from balancers.auto_layer import auto_or_named
from balancers.balance import Measurement, balance, balance_on_host, measured_on_host, take_part
from balancers.base import Balancer, StepRecord
from balancers.deferred import deferred
from balancers.gradnorm_settings import Name, check_accumulate, check_settings, parametrization_of
from balancers.gradnorm_start import balanced, first_losses, refuse_first_losses, task_notes
from balancers.host_numbers import tensor_of
from balancers.losses import StepLosses, known
from balancers.measured_backward import Path, measured_backward
from balancers.ranks import mean_over_ranks, several_ranks
from balancers.shared_gradients import TaskGradients, norms_of, task_gradients
from balancers.shared_layer import SharedOrAuto
from balancers.weights import close, column, fail, per_task
from balancers.window import Sums, Window


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
    or below (`floor_hits` counts this). `robust`, `annealed` and `direct` are recipes of ours. Gbar and the mean of
    Ltilde are over the tasks that are present in a step; an absent task keeps its w, its moving averages and its
    L_i(0), and one that is absent from the first step has its start when it comes. A loss below 0 has no training
    rate: unless alpha is 0, the task sits out the step as if it were absent.

    Args:
        tasks: names of the T tasks.
        shared: W: a module (all its parameters), a parameter, or a list or generator of these. Which of them require
            grad is asked in every step, and so is which parameters a module has. ``"auto"`` takes the weights of the
            last layer that every task reaches, from the losses of the first step (of the first step of each task);
            `notes` and `shared` say which. `balancers.find_shared_layer` names it before training.
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
        ValueError: a parameter out of its range; in the first step a loss L_i(0) that is infinite or below 0, where
            alpha is above 0 and ``initial_losses`` are not given; a loss that does not depend on the shared layer.

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

    optional = Balancer.optional | {"waiting", "still"}
    joins_passes = True

    def __init__(
        self,
        tasks: Sequence[str],
        shared: SharedOrAuto,
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
        self._shared = auto_or_named(shared, self.tasks)
        self._still = 0  # steps in which no parameter of it required grad
        self._unbalanced = initial_weights == "balanced"  # whether a task waits for its first gradient
        self._waiting = torch.full((len(self.tasks),), self._unbalanced)  # which; on the host
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
        self._open = self._initial_losses is None  # whether a task may wait for its L(0)

    @classmethod
    def paper(cls, tasks: Sequence[str], shared: SharedOrAuto, alpha: float = 1.5, **settings: Any) -> Self:
        """The paper's recipe: w itself moves, from ones, towards L(0) of the first step."""
        return cls(tasks, shared, alpha, **{"parametrization": "linear", "initial_weights": "ones"} | settings)

    @classmethod
    def robust(cls, tasks: Sequence[str], shared: SharedOrAuto, alpha: float = 0.5, **settings: Any) -> Self:
        """Our recipe for losses of unlike scales: ln w moves, from weights that balance the first gradients.

        The paper's recipe walks in steps of about 0.025 from w = 1 and may spend a short run on the way.
        """
        return cls(tasks, shared, alpha, **{"parametrization": "log", "initial_weights": "balanced"} | settings)

    @classmethod
    def annealed(
        cls, tasks: Sequence[str], shared: SharedOrAuto, alpha: float = 0.5, *, decay_steps: int, **settings: Any
    ) -> Self:
        """The robust recipe whose learning rate of w falls to 0 over the run: at its end the weights stand still."""
        return cls.robust(tasks, shared, alpha, decay_steps=decay_steps, **settings)

    @classmethod
    def direct(cls, tasks: Sequence[str], shared: SharedOrAuto, alpha: float = 0.5, **settings: Any) -> Self:
        """Weights that put all norms in proportion to their targets: no learning rate; see `balancers.direct`."""
        return cls(tasks, shared, alpha, **{"parametrization": "direct", "initial_weights": "balanced"} | settings)

    @property
    def initial_losses(self) -> Tensor | None:
        """L(0), shape (T,); ``None`` before the first step if it is taken from there, NaN of a task yet absent."""
        return None if self._initial_losses is None else self._initial_losses.clone()

    @property
    def shared(self) -> list[Tensor]:
        """The parameters of W that require grad now; none while ``"auto"`` has not found them."""
        return self._shared.trained()

    @property
    def floor_hits(self) -> int:
        """The number of times that a weight was stopped at the floor. Reading it waits for the device."""
        hits = self._moving.floor_hits
        return 0 if hits is None else int(hits.sum())

    @property
    def path(self) -> Path | None:
        """The way in which the last step that moved w took the T gradients; ``None`` before the first.

        ``"one pass"``: all heads and the trunk ran once. ``"task by task"``: each loss ran back to W by itself
        first, since the graph has no place where the tasks' gradients could be told apart.
        """
        return self._path

    @property
    def accumulate(self) -> int:
        """Backward passes that make one step. Setting another number ends a step that is under way."""
        return self._window.size

    @accumulate.setter
    def accumulate(self, passes: int) -> None:
        check_accumulate(passes)
        if passes != self._window.size:
            self.end_epoch()
            self._window.size = passes

    @property
    def passes(self) -> int:
        """Backward passes so far of a step that is under way; 0 between steps."""
        return self._window.seen

    def __call__(self, losses: Mapping[str, Any]) -> Tensor:
        """The weighted sum ``sum_i w_i(t) L_i``, a scalar; its ``backward()`` moves w to w(t+1).

        In a step that moves w the scalar's graph is one node, which runs the one backward pass when it is asked for
        its gradient: use ``.backward()`` on it, or on a multiple of it (GradScaler, gradient accumulation), or on its
        sum with terms that do not share the losses' graph; ``torch.autograd.grad`` of it gives nothing.

        Args:
            losses: see `Balancer.__call__`.

        Raises:
            ValueError: see `Balancer.__call__`; also, when its gradient is asked for, as `GradNorm` says.
        """
        return super().__call__(losses)

    def _weigh(self, step: StepLosses) -> Tensor:
        if self._measures():
            return deferred(step.weighted(self._w, step.L.detach()), lambda scale: self._run(step, scale))
        loss = step.weighted(self._w, step.L)
        self._close(step)
        return loss

    def _train(self, step: StepLosses) -> None:
        self._run(step, None if self._window.size == 1 else step.values.new_tensor(1 / self._window.size))

    def _join(self, empty: StepLosses) -> None:
        if several_ranks() or self._window.size > 1:  # a pass without tasks is one of a window too
            self._run(empty, None)

    def _run(self, step: StepLosses, scale: Tensor | None) -> None:
        """Fill ``.grad`` with the gradient of ``scale sum_i w_i L_i`` and measure, in one pass where it can be."""
        measures = self._measures()
        if measures:
            self._shared.look_at(step)
        W = self._shared.leaves() if measures else []
        if self._step == 0 or (self._unbalanced and self._may_start(step)):
            before = self._w
            self._start(step, scale, W)
            self._window.rescale(self._w / before)  # a task may have its first gradient inside an accumulated step
        w = self._w if scale is None else self._w * scale
        self._still += measures and not W
        if not W or not self._moves():
            step.backward(step.factors(w))
            self._close(step)
            return
        gradients = TaskGradients(W, step, keep=self._window.size > 1, scale=scale)
        self._path = measured_backward(step.factors(w), gradients, self._one_pass)
        self._close(step, gradients)

    def _close(self, step: StepLosses, gradients: TaskGradients | None = None) -> None:
        """Close a step, or a part of one: w moves where the gradients w_i grad_W L_i are given."""
        if self._window.size > 1:
            self._close_window(self._window.add(step.values, gradients.rows() if gradients else []))
        elif gradients is None:
            self._end_step(step.values, None)
        else:
            self._end_step(mean_over_ranks(step.values), gradients.norms())

    def _close_window(self, whole: Sums | None) -> None:
        if whole is not None:
            values, rows = whole.means()
            self._end_step(values, norms_of(rows) if rows else None)

    def end_epoch(self) -> None:
        """See `Balancer.end_epoch`. Frameworks step at the end of an epoch, be the accumulation full or not."""
        self._close_window(self._window.close())

    def _end_step(self, values: Tensor, norms: Tensor | None) -> None:
        if self._open or self._initial_losses is None:
            self._initial_losses = first_losses(self._initial_losses, values)
            if known(values) is not None or self._step & (self._step - 1) == 0:  # elsewhere it waits for the device
                self._open = bool(self._initial_losses.isnan().any())
        if norms is None:
            self._used(StepRecord(self._w, values))
            return
        w, measured = self._w, Measurement(self._w, norms.to(values), values, self._initial_losses, self.alpha)
        rates = None if self._unbalanced else self._update_on_host(measured)
        if rates is None:
            rates = self._update(measured)
        self._used(StepRecord(w, values, measured.G, rates))

    def _update_on_host(self, measured: Measurement) -> Tensor | None:
        """Move w by numbers on the host and return r; ``None`` if nothing was done and `_update` is needed."""
        now = measured_on_host(measured)
        if now is None:
            return None
        try:
            gradient, rates = balance_on_host(now)
            moved = self._moving.next_on_host(now, gradient, self._step)
        except ArithmeticError:
            return None
        self._w = tensor_of(moved, measured.w.dtype)
        return tensor_of(rates, measured.w.dtype)

    def _update(self, measured: Measurement) -> Tensor:
        """Move w by operations on tensors, which need no number on the host, and return r."""
        waiting = self._waiting.to(measured.w.device) if self._unbalanced else None
        present = take_part(measured.losses, measured.G, self.alpha, self._moving.needs_gradients, waiting)
        measured = measured._replace(present=present)
        now = balance(measured)
        self._w, refused = self._moving.next(measured, now, self._step)
        self._not_finite += refused
        return now.rates

    def state_dict(self) -> dict[str, Any]:
        """See `Balancer.state_dict`."""
        L0 = self._initial_losses
        own = {
            "initial_losses": None if L0 is None else L0.clone(),
            "unbalanced": self._unbalanced,
            "waiting": self._waiting.clone(),
            "still": self._still,
            "window": self._window.state_dict(),
        }
        return super().state_dict() | parametrizations.blank(self._w) | self._moving.state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Balancer.load_state_dict`."""
        super().load_state_dict(state)
        L0 = state["initial_losses"]
        self._initial_losses = None if L0 is None else L0.clone()
        self._open = L0 is None or bool(L0.isnan().any())
        unbalanced = torch.full(self._w.shape, bool(state["unbalanced"]))
        self._waiting = state.get("waiting", unbalanced).cpu().clone()
        self._unbalanced = bool(self._waiting.any())
        self._still = int(state.get("still", 0))
        self._moving.load_state_dict(state)
        self._window.load_state_dict(state["window"])

    def _kind(self) -> str:
        return f"GradNorm ({self.parametrization}{'' if self.decay_steps is None else ', decaying'})"

    def _alike(self) -> tuple[Hashable, ...]:
        started = (self._unbalanced, self._open, self._initial_losses is None)
        return *super()._alike(), self.update_every, self.freeze_after, *started, *self._moving.alike()

    def _merge(self, others: Sequence[Self]) -> None:
        self.alpha = column([other.alpha for other in others])
        self._moving.merge([other._moving for other in others])

    def _moves(self) -> bool:
        frozen = self.freeze_after is not None and self._step >= self.freeze_after
        return not frozen and self._step % self.update_every == 0

    def _measures(self) -> bool:
        """Return whether this step needs gradients of W: it moves w, or w is not settled yet."""
        return self._moves() or self._waits()

    def _waits(self) -> bool:
        return self._step == 0 or self._unbalanced

    def _may_start(self, step: StepLosses) -> bool:
        """Return whether a task that waits for its first gradient may be in this step; all ranks have to agree."""
        return several_ranks() or any(self._waiting[number] for number in step.numbers)

    def _start(self, step: StepLosses, scale: Tensor | None, W: Sequence[Tensor]) -> None:
        """Look at first losses and gradients, and balance w by them. The one place that waits for the device.

        Gradients that overflow under a GradScaler, as its first steps may, leave the balance to the next step.
        """
        values = mean_over_ranks(step.values)
        self._begin(values, None)
        if not W or not self._wants_norms(values):
            return
        factors = step.factors(torch.ones_like(self._w))
        gradients = TaskGradients(W, step, scale=scale)
        task_gradients(factors if scale is None else factors * scale, gradients)
        self._begin(values, gradients.norms().to(values))

    def _wants_norms(self, values: Tensor) -> bool:
        return self._unbalanced and bool((self._waiting & (values.abs() > 0).cpu()).any())

    def _begin(self, values: Tensor, norms: Tensor | None) -> None:
        """Refuse first losses that have no rates, and settle balanced weights by the norms."""
        if self._step == 0 and self._initial_losses is None:
            refuse_first_losses(values, self.alpha, self.tasks)
        if norms is not None and self._unbalanced:
            self._w, self._waiting = balanced(self._w, values, norms, self._waiting)
            self._unbalanced = bool(self._waiting.any())

    def _move(self, like: Tensor) -> None:
        super()._move(like)
        self._moving.to(like)
        self._window.to(like)
        if self._initial_losses is not None:
            self._initial_losses = self._initial_losses.to(like)
        if isinstance(self.alpha, Tensor):
            self.alpha = self.alpha.to(like)

    def notes(self) -> list[str]:
        """See `Balancer.notes`; with ``shared="auto"`` also which W was found."""
        return [*self._shared.notes(), *super().notes()]

    def _notes(self) -> Iterator[tuple[str, str]]:
        yield from super()._notes()
        if self.floor_hits:
            text = f"A weight reached its floor {self.floor}: consider GradNorm.direct, whose weights have none."
            yield "floor", text
        if self._still:
            yield "still", f"{self._shared.absence} in {self._still} steps: the weights stayed."
        yield from task_notes(self.tasks, self._troubles.read(), self.alpha)
