"""Adam on a vector of T numbers that can refuse a step on the device, without synchronising with the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from balancers.host_numbers import refuse_infinite, tensor_of
from balancers.torch_private import fused_adam
from balancers.weights import fail


class VectorAdam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1) on a tensor of shape (T,), as one fused kernel.

    It calls the kernel of ``torch.optim.Adam(fused=True)`` directly, because on T numbers the optimizer around it
    costs more. The kernel skips a step, moments included, if a flag on the device is set (GradScaler's protocol).

    On (K, T), for K balancers at once, each row has its own flag and step count, which the kernel does not support.

    Args:
        size: T.
        lr: learning rate; for K rows it may be a tensor of shape (K, 1).

    Raises:
        ValueError: ``lr`` is not above 0.
    """

    def __init__(self, size: int, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        if not lr > 0:
            fail("lr", "a number > 0", lr)
        self.lr: float | Tensor = lr
        self._betas, self._eps = betas, eps
        self._moments = [torch.zeros(size), torch.zeros(size)]
        self._steps = torch.zeros(())  # single precision, as the kernel wants it

    def move(self, vector: Tensor, gradient: Tensor, refused: Tensor, present: Tensor | None = None) -> None:
        """One step in place.

        Args:
            vector: shape (..., T).
            gradient: finite where the step is taken.
            refused: floats of shape (...); vector and moments stay as they are where it is 1.
            present: the numbers that take the step, bools of shape (..., T). The moments and step counts of the
                others stay; the caller must ignore their values in ``vector``. ``None`` for all.
        """
        if present is not None and self._steps.dim() < vector.dim():
            self._steps = self._steps.unsqueeze(-1).expand_as(vector).clone()  # from now on each has its own count
        if refused.dim():
            self._move_rows(vector, gradient, refused, present)
        elif self._steps.dim():
            self._move_each(vector, gradient, refused, present)
        else:
            self._steps += 1
            self._fused([vector], [gradient], [[moment] for moment in self._moments], [self._steps], refused)
            self._steps -= refused

    def steps_on_host(self, gradient: Sequence[float]) -> list[float]:
        """Take one step for T numbers on the host, all of which take it.

        Returns:
            The steps, to be subtracted from the numbers.

        Raises:
            ArithmeticError: a number is too large or too small; nothing has changed then.
        """
        (beta1, beta2), dtype = self._betas, self._moments[0].dtype
        each = self.counts_each
        counts = [count + 1 for count in (self._steps.tolist() if each else [self._steps.item()])]
        scales = [(float(self.lr) / (1 - beta1**t), math.sqrt(1 - beta2**t)) for t in counts]
        first, second = (moment.tolist() for moment in self._moments)
        first = [m + (1 - beta1) * (g - m) for m, g in zip(first, gradient, strict=True)]
        second = [beta2 * v + (1 - beta2) * g * g for v, g in zip(second, gradient, strict=True)]
        steps = [
            rate * m / (math.sqrt(v) / root + self._eps)
            for m, v, (rate, root) in zip(first, second, scales if each else scales * len(first), strict=True)
        ]
        refuse_infinite(steps)
        self._moments = [tensor_of(first, dtype), tensor_of(second, dtype)]
        counted = tensor_of(counts, self._steps.dtype)
        self._steps = counted if each else counted.view(())
        return steps

    def _fused(
        self,
        vectors: Sequence[Tensor],
        gradients: Sequence[Tensor],
        moments: Sequence[Sequence[Tensor]],
        steps: Sequence[Tensor],
        refused: Tensor,
    ) -> None:
        beta1, beta2 = self._betas
        fused_adam(vectors, gradients, moments, steps, refused, self.lr, beta1=beta1, beta2=beta2, eps=self._eps)

    def _move_each(self, vector: Tensor, gradient: Tensor, refused: Tensor, present: Tensor | None) -> None:
        """Move T numbers, each with its own step count, in one call of the kernel."""
        before = torch.stack(self._moments) if present is not None else None
        self._steps += 1
        moments = [moment.unbind() for moment in self._moments]
        self._fused(vector.unbind(), gradient.unbind(), moments, self._steps.unbind(), refused)
        if present is None or before is None:
            self._steps -= refused
            return
        self._steps -= torch.where(present, refused, 1)
        self._moments = list(torch.where(present, torch.stack(self._moments), before).unbind())

    def _move_rows(self, vector: Tensor, gradient: Tensor, refused: Tensor, present: Tensor | None) -> None:
        (beta1, beta2), taken = self._betas, 1 - refused.unsqueeze(-1)
        if present is not None:
            taken = torch.where(present, taken, 0)
        each = self.counts_each
        self._steps += taken if each else taken.squeeze(-1)
        first, second = self._moments
        gradient = torch.where(taken > 0, gradient, 0)  # NaN times 0 is NaN
        first += taken * (1 - beta1) * (gradient - first)
        second += taken * (1 - beta2) * (gradient.square() - second)
        steps = (self._steps if each else self._steps.unsqueeze(-1)).clamp(min=1)
        steps = steps.double()  # 1 - 0.999**t has few digits in single precision
        root = (second / (1 - beta2**steps).to(second)).sqrt() + self._eps
        vector -= taken * self.lr * (first / (1 - beta1**steps).to(first)) / root

    @property
    def counts_each(self) -> bool:
        """True if each number has its own step count, as after a step that not all have taken."""
        return self._steps.dim() == self._moments[0].dim()

    def to(self, like: Tensor) -> None:
        """Move to the device and dtype of a tensor."""
        self._moments = [moment.to(like) for moment in self._moments]
        self._steps = self._steps.to(like.device)
        if isinstance(self.lr, Tensor):
            self.lr = self.lr.to(like)

    def state_dict(self) -> dict[str, Tensor]:
        """The moments and the step count."""
        return {"moments": torch.stack(self._moments), "steps": self._steps.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self._moments = [moment.clone() for moment in state["moments"]]
        self._steps = state["steps"].clone()
