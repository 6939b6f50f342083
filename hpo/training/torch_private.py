"""Names of torch that are not public, in `hpo.training` here alone.

After an upgrade of torch `tests/hpo/training/test_torch_private.py` says which are gone.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn.modules import module as _module
from torch.overrides import _get_current_function_mode_stack

_optimizer = sys.modules["torch.optim.optimizer"]  # `torch.optim` hides the module behind a class's name


def global_hooks() -> dict[tuple[str, str], Any]:
    """The hooks that act on every module and every optimizer, and the flags beside them."""
    return {
        (owner.__name__, name): value
        for owner in (_module, _optimizer)
        for name, value in vars(owner).items()
        if name.startswith("_global_")
    }


def read_hooks() -> dict[tuple[str, str], Any]:
    """A copy of `global_hooks`."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in global_hooks().items()}


def write_hooks(found: dict[tuple[str, str], Any]) -> None:
    """Set the global hooks as `read_hooks` found them."""
    for (owner, name), value in global_hooks().items():
        if isinstance(value, dict):
            value.clear()
            value.update(found[owner, name])
        else:
            setattr(sys.modules[owner], name, found[owner, name])


def _device_context() -> Any:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def default_device() -> torch.device | None:
    """The device of `torch.set_default_device` in this thread; ``None`` if it was not called."""
    context = _device_context()
    return None if context is None else context.device


def function_modes() -> list[Any]:
    """The modes that act on every function of torch, such as ``with torch.device(...)``; not the default device."""
    stack: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [mode for mode in stack if mode is not _device_context()]


def set_function_modes(found: list[Any]) -> None:
    """Set the modes as `function_modes` found them."""
    own = _device_context()
    for _ in range(torch._C._len_torch_function_stack()):
        torch._C._pop_torch_function_stack()
    for mode in [*([] if own is None else [own]), *found]:
        torch._C._push_on_torch_function_stack(mode)


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer has hooks that run before its step."""
    return bool(optimizer._optimizer_step_pre_hooks)
