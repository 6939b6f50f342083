"""A scalar whose backward pass is a function of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Deferred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, value: Tensor, run: Callable[[Tensor], None]) -> Tensor:
        del anchor  # gives the result a graph
        ctx.run = run
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[None, None, None]:
        run, ctx.run = ctx.run, None
        if run is None:
            raise RuntimeError("The loss of a balancer runs backward once. Call the balancer again with new losses.")
        run(scale)
        return None, None, None


def deferred(value: Tensor, run: Callable[[Tensor], None]) -> Tensor:
    """Return a scalar of this value whose ``backward()`` calls ``run`` once, with the gradient that arrives.

    Like reentrant checkpointing, ``run`` may call the autograd engine itself, so hooks on parameters (data parallel
    training) work as in a plain backward pass.
    """
    return _Deferred.apply(torch.zeros((), requires_grad=True), value, run)  # type: ignore[no-any-return,no-untyped-call]
