"""Contexts in which nothing may wait for a device, or a CPU is treated as one."""

from contextlib import contextmanager

import pytest
from torch import Tensor

from balancers import losses

WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")


@contextmanager
def as_device():
    """Balancers treat a CPU as a device whose numbers have to be waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "on_host", lambda _: False)
        yield


@contextmanager
def no_host():
    """Reading a number from a tensor, or copying one to the host, is an error; also in hooks of the backward pass,
    where torch's own modes do not reach."""
    with as_device(), pytest.MonkeyPatch.context() as patch:
        for name in WAITS:
            patch.setattr(Tensor, name, _refuse(name))
        yield


def _refuse(name):
    def refuse(*_, **__):
        raise AssertionError(f"Tensor.{name} waits for the device")

    return refuse
