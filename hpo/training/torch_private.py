"""Private names of torch. In `hpo.training` only this module uses any.

After an upgrade of torch, `tests/hpo/training/test_torch_private.py` reports which are missing.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.nn.modules import module as _module
from torch.overrides import _get_current_function_mode_stack

_optimizer = sys.modules["torch.optim.optimizer"]  # `torch.optim` hides the module behind a class's name


def global_hooks() -> dict[tuple[str, str], Any]:
    """Return the hooks that act on every module and every optimizer, and their flags."""
    return {
        (owner.__name__, name): value
        for owner in (_module, _optimizer)
        for name, value in vars(owner).items()
        if name.startswith("_global_")
    }


def read_hooks() -> dict[tuple[str, str], Any]:
    """Return a copy of `global_hooks`."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in global_hooks().items()}


def write_hooks(found: dict[tuple[str, str], Any]) -> None:
    """Restore the global hooks from `read_hooks`."""
    for (owner, name), value in global_hooks().items():
        if isinstance(value, dict):
            value.clear()
            value.update(found[owner, name])
        else:
            setattr(sys.modules[owner], name, found[owner, name])


def _device_context() -> Any:
    return getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)


def default_device() -> torch.device | None:
    """Return the device of `torch.set_default_device` in this thread; ``None`` if it was not called."""
    context = _device_context()
    return None if context is None else context.device


def function_modes() -> list[Any]:
    """Return the modes that act on every function of torch (``with torch.device(...)``), not the default device."""
    stack: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return [mode for mode in stack if mode is not _device_context()]


def set_function_modes(found: list[Any]) -> None:
    """Restore the modes from `function_modes`."""
    own = _device_context()
    for _ in range(torch._C._len_torch_function_stack()):
        torch._C._pop_torch_function_stack()
    for mode in [*([] if own is None else [own]), *found]:
        torch._C._push_on_torch_function_stack(mode)


def has_step_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer has hooks that run before its step."""
    return bool(optimizer._optimizer_step_pre_hooks)
