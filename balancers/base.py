"""What every balancer shares: reading the losses, the two call styles, averages and state."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, NoReturn, Self

import torch
from torch import Tensor

Average = Literal["arithmetic", "geometric"]


class BalancerWarning(UserWarning):
    """Something in training that the balancer survived and that the user should know of."""


class StepRecord(NamedTuple):
    """What one step used, all of shape (T,), detached; ``None`` where the balancer did not measure it."""

    weights: Tensor
    losses: Tensor
    gradient_norms: Tensor | None = None
    rates: Tensor | None = None


def fail(parameter: str, rule: str, found: object) -> NoReturn:
    """Raise the `ValueError` of our one grammar for bad input."""
    raise ValueError(f"Parameter `{parameter}` should be {rule}. Found `{parameter} = {found}`.")


class Balancer(ABC):
    """Decides the loss weights w(t) of T tasks and fills ``.grad`` with the gradient of ``sum_i w_i(t) L_i``.

    Two call styles, which move w(t) to w(t+1) in the same way::

        balancer.backward(losses)          # fills .grad itself
        loss = balancer(losses)            # for loops that own .backward(): Lightning, GradScaler, Trainer

    Args:
        tasks: names of the tasks, in the order of every tensor of shape (T,).

    Attributes:
        sums_to_T: whether the weights this class applies always sum to T.
        positive: whether they are all above zero.
        last: the `StepRecord` of the step before, ``None`` until the first.
    """

    sums_to_T: ClassVar[bool] = True
    positive: ClassVar[bool] = True

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = list(tasks)
        if isinstance(tasks, str) or not self.tasks or not all(isinstance(t, str) for t in self.tasks):
            fail("tasks", "a list of at least one name", repr(tasks))
        if len(set(self.tasks)) != len(self.tasks):
            fail("tasks", "a list of names that differ", self.tasks)
        self.last: StepRecord | None = None
        self._step = 0
        self._w = torch.ones(len(self.tasks))

    @abstractmethod
    def __call__(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum ``sum_i w_i(t) L_i`` with its graph, a scalar; w then moves to w(t+1).

        Args:
            losses: for each task a scalar loss with its graph.

        Raises:
            ValueError: an unknown or missing task, a loss that is not a scalar or has no graph.
        """

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Fill ``.grad`` of every parameter with the gradient of ``sum_i w_i(t) L_i``, then move w to w(t+1).

        Args:
            losses: for each task a scalar loss with its graph.

        Raises:
            ValueError: an unknown or missing task, a loss that is not a scalar or has no graph.
        """
        self(losses).backward()  # type: ignore[no-untyped-call]

    def end_epoch(self) -> None:  # noqa: B027 - most have no use for it
        """Say that an epoch has ended, for methods that count in epochs."""

    @property
    def weights(self) -> Tensor:
        """w(t), the weights the next step will use: shape (T,), detached. Reading it waits for the device."""
        self._report()
        return self._w.clone()

    @property
    def step(self) -> int:
        """Steps taken."""
        return self._step

    def mean_weights(self, kind: Average = "arithmetic", start: float = 0.0) -> Tensor:
        """E_t[w], the average of the weights the steps so far used, scaled to sum to T: shape (T,).

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
            fail("start", "in [0, 1)", start)
        self._report()
        return self._mean(kind, start)

    def _mean(self, kind: Average, start: float) -> Tensor:
        """The average itself; of weights that never move it is the weights."""
        del kind, start
        return close(self._w)

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue bit for bit: tensors, numbers and strings; no graph, safe to load."""
        self._report()
        return {"tasks": list(self.tasks), "step": self._step, "w": self._w.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`.

        Raises:
            ValueError: the state is of other tasks, or of another kind of balancer.
        """
        if state.get("tasks") != self.tasks:
            fail("state", f"of the tasks {self.tasks}", state.get("tasks"))
        missing = sorted(set(self.state_dict()) - set(state))
        if missing:
            fail("state", f"of a {type(self).__name__}, which has {missing}", sorted(state))
        self._step = int(state["step"])
        self._w = state["w"].clone()

    def _collect(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The losses in task order, shape (T,), with their graph; also moves our state to their device."""
        if losses.keys() != set(self.tasks):
            self._fail_tasks(losses)
        scalars = []
        for task in self.tasks:
            loss = losses[task]
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
                raise ValueError(f"Loss of task `{task}` should be a scalar tensor. Found {found}.")
            if not loss.requires_grad:
                raise ValueError(f"Loss of task `{task}` should have a graph. Found `requires_grad = False`.")
            scalars.append(loss.reshape(()) if loss.dim() else loss)
        L = torch.stack(scalars)
        if L.dtype in (torch.float16, torch.bfloat16):
            L = L.float()  # ratios of losses need more than half precision
        if self._w.device != L.device or self._w.dtype != L.dtype:
            self._move(L)
        return L

    def _fail_tasks(self, losses: Mapping[str, Tensor]) -> NoReturn:
        missing = [task for task in self.tasks if task not in losses]
        unknown = [task for task in losses if task not in self.tasks]
        raise ValueError(
            f"Parameter `losses` should have exactly the tasks {self.tasks}. "
            f"Found missing {missing}, unknown {unknown}."
        )

    def _move(self, like: Tensor) -> None:
        """Bring the state to the device and dtype of the losses."""
        self._w = self._w.to(like)

    def _used(self, record: StepRecord) -> None:
        """Close a step."""
        self.last = record
        self._step += 1

    # What a step does to numbers, apart from graphs. Tensors may have more dimensions before the last, T: `Stack`
    # lets balancers of one kind take their steps together.

    def _moves(self) -> bool:
        """Whether the coming step moves w by ``||grad_W w_i L_i||``."""
        return False

    def _begins_with_norms(self) -> bool:
        """Whether the coming step needs ``||grad_W L_i||`` before it has weights."""
        return False

    def _begin(self, values: Tensor, norms: Tensor | None) -> None:  # noqa: B027 - most have nothing to settle
        """Look at the first losses, and norms if asked for, (..., T) each. Waits for the device, once a run."""

    def _end_step(self, values: Tensor, norms: Tensor | None) -> None:
        """Close a step with these losses and ``||grad_W w_i L_i||``, (..., T) each, and move w."""
        del norms
        self._used(StepRecord(self._w, values))

    def _alike(self) -> tuple[Hashable, ...]:
        """All that has to be the same in balancers that take their steps together."""
        return type(self), self._step

    def _merge(self, others: Sequence[Self]) -> None:  # noqa: B027 - most have no settings that may differ
        """Take the settings in which balancers that take their steps together may differ."""

    def _report(self) -> None:  # noqa: B027 - most have nothing to tell
        """Tell the user of troubles counted on the device since the last reading; waits for the device."""


def close(w: Tensor) -> Tensor:
    """Scale weights of shape (..., T) so that they sum to T."""
    return w * (w.shape[-1] / w.sum(-1, keepdim=True))


def column(numbers: Sequence[Any]) -> Any:
    """A setting of K balancers: a number where all have the same, else shape (K, 1)."""
    return numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers, dtype=torch.float64).unsqueeze(1)


def per_task(parameter: str, numbers: Mapping[str, float], tasks: Sequence[str]) -> Tensor:
    """A number > 0 for each task as a tensor of shape (T,).

    Raises:
        ValueError: other tasks, a number that is not finite or not above 0.
    """
    if numbers.keys() != set(tasks):
        fail(parameter, f"a number for each of {list(tasks)}", dict(numbers))
    for task, number in numbers.items():
        if not 0 < number < float("inf"):
            fail(f"{parameter}[{task!r}]", "finite and > 0", number)
    return torch.tensor([float(numbers[task]) for task in tasks])


def warn(message: str) -> None:
    """Warn at the line of the user that read from the balancer."""
    warnings.warn(message, BalancerWarning, stacklevel=4)
