"""After an upgrade of torch: the private names of balancers/torch_private.py."""

from functools import reduce
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional

NAMES = [
    ("torch", "_fused_adam_"),
    ("torch", "_foreach_norm"),
    ("torch", "_C._functions.AccumulateGrad"),
    ("torch.nn.parallel.distributed", "_DDPSink._backward_cls"),
    ("torch.distributed", "_composable_state._module_state_mapping"),
]
SAVED = [
    (torch.relu, "ReluBackward0", "_saved_result"),
    (functional.gelu, "GeluBackward0", "_saved_self"),
    (functional.gelu, "GeluBackward0", "_saved_approximate"),
    (functional.silu, "SiluBackward0", "_saved_self"),
    (torch.tanh, "TanhBackward0", "_saved_result"),
    (torch.sigmoid, "SigmoidBackward0", "_saved_result"),
    (nn.Linear(3, 3), "AddmmBackward0", "_saved_mat1"),
    (nn.Linear(3, 3), "AddmmBackward0", "_saved_alpha"),
    (nn.Linear(3, 3), "AddmmBackward0", "_saved_beta"),
    (nn.Linear(3, 3, bias=False), "MmBackward0", "_saved_self"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_private_name_that_we_use_is_still_there(module, name):
    try:
        reduce(getattr, name.split("."), import_module(module))
    except AttributeError:
        pytest.fail(f"torch has no {module}.{name} any more; balancers/torch_private.py uses it")


@pytest.mark.parametrize(("call", "kind", "name"), SAVED)
def test_a_node_keeps_what_the_product_reads(call, kind, name):
    node = call(torch.ones(2, 3, requires_grad=True)).grad_fn
    found = type(node).__name__
    assert found == kind, f"torch calls the node of {call} {found} now; balancers/shared_product.py knows {kind}"
    assert hasattr(node, name), f"torch's {kind} has no {name} any more; balancers/torch_private.py uses it"


@pytest.mark.parametrize("name", ["_input_metadata", "_sequence_nr"])
def test_a_node_has_a_device_and_a_sequence_number(name):
    node = torch.ones(2, requires_grad=True).sum().grad_fn
    assert hasattr(node, name), f"torch's nodes have no {name} any more; balancers/torch_private.py uses it"


def test_the_engine_numbers_nodes_in_the_order_in_which_they_were_made():
    from balancers.torch_private import device_of, sequence_number, shape_of

    first = torch.ones(2, requires_grad=True).exp()
    second = first.exp()
    assert sequence_number(first.grad_fn) < sequence_number(second.grad_fn)
    assert device_of(first.grad_fn) == first.device
    assert shape_of(first.grad_fn) == (2,)


def test_hooks_of_a_parameter_are_detected():
    from balancers.torch_private import has_hooks

    parameter = nn.Parameter(torch.ones(2))
    assert not has_hooks(parameter)
    parameter.register_hook(lambda gradient: gradient)
    assert has_hooks(parameter), "Tensor._backward_hooks tells no more of hooks; balancers/torch_private.py uses it"


def test_ddp_has_the_flag_of_its_static_graph():
    from inspect import getsource

    source, name = getsource(nn.parallel.DistributedDataParallel), "_static_graph_delay_allreduce_enqueued"
    assert f"self.{name}" in source, f"DDP has no {name} any more; balancers/torch_private.py uses it"
