"""The base class of all balancers: reading the losses, the two call styles, averages and state."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor

from balancers.deferred import deferred
from balancers.losses import Losses, StepLosses, evaluated, has_graph, read_losses
from balancers.ranks import several_ranks
from balancers.troubles import PATIENCE, Troubles
from balancers.weights import close, fail
from balancers.weights_file import write_weights

Average = Literal["arithmetic", "geometric"]


class BalancerWarning(UserWarning):
    """A warning about something in training that the balancer has handled and the user should know."""


class StepRecord(NamedTuple):
    """The quantities of one step, each of shape (T,), detached; ``None`` where the balancer did not measure them."""

    weights: Tensor
    losses: Tensor  # NaN where the task was absent
    gradient_norms: Tensor | None = None
    rates: Tensor | None = None


class Balancer(ABC):
    """Decides the loss weights w(t) of T tasks and fills ``.grad`` with the gradient of ``sum_i w_i(t) L_i``.

    Two call styles, which move w(t) to w(t+1) in the same way::

        balancer.backward(losses)          # fills .grad itself
        loss = balancer(losses)            # for loops that own .backward(): Lightning, GradScaler, Trainer

    A task may be absent from a step: missing from the losses, ``None``, 0 or NaN (a mean over no example). It keeps
    its w, and the others train. Where autograd does not record, or no loss has a graph, a call gives the weighted
    sum and moves nothing.

    Args:
        tasks: names of the tasks, in the order of every tensor of shape (T,).

    Attributes:
        sums_to_T: whether the weights this class applies always sum to T.
        positive: whether they are all above zero.
        joins_passes: whether it moves w once in ``accumulate`` backward passes, not in each.
        accumulate: backward passes that make one step of the optimizer. `backward` then fills in the mean over them;
            the loss that a call returns is to be divided by the caller, as frameworks do.
        last: the `StepRecord` of the step before, ``None`` until the first.
        on_step: called with the `StepRecord` of each step, for whoever records them; ``None`` calls nothing.
    """

    sums_to_T: ClassVar[bool] = True
    positive: ClassVar[bool] = True
    joins_passes: ClassVar[bool] = False
    accumulate: int = 1
    optional: ClassVar[frozenset[str]] = frozenset({"kind", "troubles"})  # entries that states of version 0.1 lack

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        if isinstance(tasks, str) or not self.tasks or not all(isinstance(t, str) for t in self.tasks):
            fail("tasks", "a list of at least one name", repr(tasks))
        if len(set(self.tasks)) != len(self.tasks):
            fail("tasks", "a list of names, each once", self.tasks)
        self.last: StepRecord | None = None
        self.on_step: Callable[[StepRecord], object] | None = None
        self._step = 0
        self._w = torch.ones(len(self.tasks))
        self._missing: list[int] = []  # tasks that the last step was not given
        self._trusted: set[str] = set()
        self._troubles = Troubles(len(self.tasks))
        self._told: set[str] = set()

    def __call__(self, losses: Losses) -> Tensor:
        """Return the weighted sum ``sum_i w_i(t) L_i`` with its graph, a scalar; w then moves to w(t+1).

        Args:
            losses: for each task a scalar loss with its graph; a task that is missing or ``None`` is absent.

        Raises:
            ValueError: an unknown task, a loss that is not a scalar, or one that has a value and no graph while
                others have one.
        """
        if has_graph(losses):
            return self._weigh(self._read(losses))
        empty = self._read(dict.fromkeys(losses))
        total = evaluated(losses, self.tasks, self._w)
        return deferred(self._w.new_zeros(()), lambda _: self._join(empty)) if total is None else total

    def backward(self, losses: Losses) -> None:
        """Fill ``.grad`` of every parameter with the gradient of ``sum_i w_i(t) L_i``, then move w to w(t+1).

        Args:
            losses: as for a call.

        Raises:
            ValueError: as for a call; no loss has a graph, and one has a value.
        """
        if has_graph(losses):
            self._train(self._read(losses))
            return
        empty = self._read(dict.fromkeys(losses))
        if evaluated(losses, self.tasks, self._w) is not None:
            found = "requires_grad = False for all" if torch.is_grad_enabled() else "torch.no_grad()"
            fail("losses", "a loss with a graph; without one, call balancer(losses)", found)
        self._join(empty)

    @abstractmethod
    def _weigh(self, step: StepLosses) -> Tensor:
        """Return the weighted sum with its graph; the step is closed here or by the sum's ``backward()``."""

    def _train(self, step: StepLosses) -> None:
        """Fill ``.grad`` and close the step."""
        loss = self._weigh(step)
        (loss if self.accumulate == 1 else loss / self.accumulate).backward()  # type: ignore[no-untyped-call]

    def _join(self, empty: StepLosses) -> None:
        """Take part in the exchange between ranks in a step in which this rank has no task."""
        if several_ranks():
            self._weigh(empty)

    def end_epoch(self) -> None:  # noqa: B027 - most have no use for it
        """Notify the balancer that an epoch has ended. A second call without a step in between does nothing."""

    @property
    def weights(self) -> Tensor:
        """w(t), the weights the next step will use: shape (T,), detached. Reading it waits for the device."""
        self._report()
        return self._w.clone()

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._step

    def as_dict(self) -> dict[str, float]:
        """w(t), a number for each task. Waits for the device."""
        self._report()
        return dict(zip(self.tasks, self._w.tolist(), strict=True))

    def __repr__(self) -> str:
        shown = ", ".join(f"{task}: {weight:.4g}" for task, weight in zip(self.tasks, self._w.tolist(), strict=True))
        return f"{self._kind()}({{{shown}}}, step {self._step})"

    def save(self, path: str | Path, kind: Average = "arithmetic", start: float = 0.0) -> None:
        """Write `mean_weights` as a weights file, which `Static.load` reads.

        Args:
            path: the JSON file.
            kind: as for `mean_weights`.
            start: as for `mean_weights`.

        Raises:
            ValueError: as `mean_weights`; a weight that is not finite and above 0.
        """
        mean = self.mean_weights(kind, start).double()
        write_weights(path, dict(zip(self.tasks, mean.tolist(), strict=True)))

    def mean_weights(self, kind: Average = "arithmetic", start: float = 0.0) -> Tensor:
        """Return E_t[w], the average of the weights that the steps so far used, scaled to sum to T: shape (T,).

        Args:
            kind: ``"arithmetic"`` (the GradNorm paper) or ``"geometric"`` (the mean of ln w, the natural one for
                ratios).
            start: leave out this first fraction of the run, in [0, 1). Exact up to 256 steps, then to within
                1/128 of the run.

        Raises:
            ValueError: an unknown kind, a start outside [0, 1).
        """
        if kind not in ("arithmetic", "geometric"):
            fail("kind", "'arithmetic' or 'geometric'", repr(kind))
        if not 0.0 <= start < 1.0:
            fail("start", "a number in [0, 1)", start)
        self._report()
        return self._mean(kind, start)

    def _mean(self, kind: Average, start: float) -> Tensor:
        """Return the average; for weights that never move it is the weights."""
        del kind, start
        return close(self._w)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue bit for bit: tensors, numbers and strings; no graph, safe to load."""
        self._report()
        self._troubles.fold()
        counts = self._troubles.counts.clone()
        own = {"tasks": list(self.tasks), "step": self._step, "w": self._w.clone()}
        return own | {"kind": self._kind(), "troubles": counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: the state is of other tasks, of another kind of balancer, or of another recipe.
        """
        if state.get("tasks") != self.tasks:
            fail("state", f"a state of the tasks {self.tasks}", f"one of the tasks {state.get('tasks')}")
        if state.get("kind", self._kind()) != self._kind():
            fail("state", f"a state of {self._kind()}", f"one of {state['kind']}")
        missing = sorted(set(self.state_dict()) - set(state) - self.optional)
        if missing:
            fail("state", f"a state of {type(self).__name__} with {missing}", f"one with {sorted(state)}")
        self._step = int(state["step"])
        self._w = state["w"].clone()
        self._troubles.load(state.get("troubles"), self._w)

    def _kind(self) -> str:
        """The class and its recipe, if it has several; a state can only be loaded into the same kind."""
        return type(self).__name__

    def _read(self, losses: Losses) -> StepLosses:
        """Read the losses in task order, without absent ones; also moves our state to their device."""
        step = read_losses(losses, self.tasks, self._w, self._trusted)
        self._missing = step.missing
        if self._w.device != step.values.device or self._w.dtype != step.values.dtype:
            self._move(step.values)
        return step

    def _move(self, like: Tensor) -> None:
        """Bring the state to the device and dtype of the losses."""
        self._w = self._w.to(like)

    def _used(self, record: StepRecord) -> None:
        """Close a step."""
        self.last = record
        self._troubles.add(record.losses, record.gradient_norms, self._missing)
        self._step += 1
        if self.on_step is not None:
            self.on_step(record)

    # The numerical part of a step, without graphs. Tensors may have more dimensions before the last, T, because
    # `Stack` lets balancers of one kind take their steps together.

    def _moves(self) -> bool:
        """Return whether the coming step moves w by ``||grad_W w_i L_i||``."""
        return False

    def _waits(self) -> bool:
        """Return whether the coming step needs `_begin`: a task still waits for its first loss or gradient."""
        return False

    def _wants_norms(self, values: Tensor) -> bool:
        """Return whether `_begin` also needs ``||grad_W L_i||`` of these losses. Waits for the device."""
        del values
        return False

    def _begin(self, values: Tensor, norms: Tensor | None) -> None:  # noqa: B027 - most have nothing to settle
        """Process losses, and norms if requested, (..., T) each, before the step. Waits for the device."""

    def _end_step(self, values: Tensor, norms: Tensor | None) -> None:
        """Close a step with these losses and ``||grad_W w_i L_i||``, (..., T) each, and move w."""
        del norms
        self._used(StepRecord(self._w, values))

    def _alike(self) -> tuple[Hashable, ...]:
        """Return everything that must be equal in balancers that take their steps together."""
        return type(self), self._step

    def _merge(self, others: Sequence[Self]) -> None:  # noqa: B027 - most have no settings that may differ
        """Adopt the settings in which balancers that take their steps together may differ."""

    def notes(self) -> list[str]:
        """Describe unusual events in training and how they were handled, one line per cause. Waits for the device."""
        return [text for _, text in self._notes()]

    def _notes(self) -> Iterator[tuple[str, str]]:
        """Yield each cause with its line."""
        found = self._troubles.read()
        for i, task in enumerate(self.tasks):
            if found["nan"][1][i] >= PATIENCE:
                yield (
                    f"nan {task}",
                    f"Loss of task `{task}` was NaN in the last {found['nan'][1][i]} steps: it has diverged, or no "
                    "batch has a label of it.",
                )
            if absent := found["absent"][0][i]:
                yield (
                    f"absent {task}",
                    f"Task `{task}` was absent in {absent} steps, with a loss of 0 or NaN: it kept its weight, and "
                    "the others trained.",
                )

    def _report(self) -> None:
        """Warn once about each cause; waits for the device."""
        for cause, text in self._notes():
            if cause not in self._told:
                self._told.add(cause)
                warnings.warn(text, BalancerWarning, stacklevel=3)
