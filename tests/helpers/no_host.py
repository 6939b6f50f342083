"""Where nothing may wait for a device."""

from contextlib import contextmanager

import pytest
from torch import Tensor

WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__")


@contextmanager
def no_host():
    """Reading a number from a tensor, or copying one to the host, is an error; also in hooks of the backward pass,
    where torch's own modes do not reach."""
    with pytest.MonkeyPatch.context() as patch:
        for name in WAITS:
            patch.setattr(Tensor, name, _refuse(name))
        yield


def _refuse(name):
    def refuse(*_, **__):
        raise AssertionError(f"Tensor.{name} waits for the device")

    return refuse
