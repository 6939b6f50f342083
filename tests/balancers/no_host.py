"""A mode that refuses what would wait for a device."""

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

WAITS = {
    *(Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.nonzero, torch.nonzero),
    *(Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__),
}


class NoHost(TorchFunctionMode):
    """Reading a number from a tensor, or copying one to the host, is an error."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in WAITS, f"{function} waits for the device"
        return function(*args, **(kwargs or {}))
