"""Adam on a vector of T numbers that can refuse a step on the device, without asking the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class VectorAdam:
    """Adam (Kingma and Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1) as a pure step on tensors of shape (T,).

    ``torch.optim.Adam`` cannot leave a step out, moments included, where a value on the device says so; this can.

    Args:
        size: T.
        lr: learning rate.
    """

    def __init__(self, size: int, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.lr, self._betas, self._eps = lr, betas, eps
        self._state = torch.zeros(3, size)  # first moment, second moment, steps taken

    def change(self, gradient: Tensor, valid: Tensor) -> Tensor:
        """What to subtract from the vector; zero, and the moments untouched, where ``valid`` (a bool) is false."""
        beta1, beta2 = self._betas
        m, v, t = self._state
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        t = t + 1
        change = self.lr * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + self._eps)
        self._state = torch.where(valid, torch.stack([m, v, t]), self._state)
        return torch.where(valid, change, torch.zeros_like(change))

    def to(self, like: Tensor) -> None:
        """Move to the device and dtype of a tensor."""
        self._state = self._state.to(like)

    def state_dict(self) -> dict[str, Tensor]:
        """The moments and the step count."""
        return {"moments": self._state.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict`."""
        self._state = state["moments"].clone()
