"""After an upgrade of torch: the private names of hpo/training/torch_private.py."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

from tests.helpers.hostile_problems import Spoilt

NAMES = [
    ("torch", "_GLOBAL_DEVICE_CONTEXT"),
    ("torch.overrides", "_get_current_function_mode_stack"),
    ("torch._C", "_len_torch_function_stack"),
    ("torch._C", "_pop_torch_function_stack"),
    ("torch._C", "_push_on_torch_function_stack"),
    *(
        ("torch.nn.modules.module", f"_global_{name}")
        for name in (
            "forward_hooks",
            "forward_pre_hooks",
            "backward_hooks",
            "backward_pre_hooks",
            "forward_hooks_always_called",
            "parameter_registration_hooks",
        )
    ),
    ("torch.optim.optimizer", "_global_optimizer_pre_hooks"),
    ("torch.optim.optimizer", "_global_optimizer_post_hooks"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_private_name_that_we_use_is_still_there(module: str, name: str) -> None:
    assert hasattr(import_module(module), name), (
        f"torch has no {module}.{name} any more; hpo/training/torch_private.py uses it"
    )


def test_hooks_of_an_optimizer_are_detected() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    name = "_optimizer_step_pre_hooks"
    assert hasattr(optimizer, name), (
        f"torch's optimizers have no {name} any more; hpo/training/torch_private.py uses it"
    )
    from hpo.training.torch_private import has_step_hooks

    assert not has_step_hooks(optimizer)
    optimizer.register_step_pre_hook(lambda *_: None)
    assert has_step_hooks(optimizer)


def test_default_device_and_function_modes_are_distinguished() -> None:
    from hpo.training.torch_private import default_device, function_modes

    mode = Spoilt()
    torch.set_default_device("cpu")
    try:
        with mode:
            assert function_modes() == [mode]
            assert default_device() == torch.device("cpu")
    finally:
        torch.set_default_device(None)
    assert default_device() is None
