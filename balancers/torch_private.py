"""Private names of torch. In `balancers` only this module uses any.

After an upgrade of torch, `tests/balancers/test_torch_private.py` reports which are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.distributed import _composable_state
from torch.nn.parallel import distributed

AccumulateGrad: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
"""The kind of a leaf's node in the autograd graph."""

Sink: Any = distributed._DDPSink._backward_cls
"""The kind of the node around all outputs of a DDP model: it passes its k-th gradient on."""


def fused_adam(
    vectors: Sequence[Tensor],
    gradients: Sequence[Tensor],
    moments: Sequence[Sequence[Tensor]],
    steps: Sequence[Tensor],
    refused: Tensor,
    lr: Any,
    **settings: Any,
) -> None:
    """Run the kernel of ``torch.optim.Adam(fused=True)`` in place, except where ``refused`` is 1.

    The learning rate is a number or a tensor; ``settings`` are beta1, beta2 and eps.
    """
    first, second = moments
    torch._fused_adam_(
        list(vectors),
        list(gradients),
        list(first),
        list(second),
        [],
        list(steps),
        lr=lr,
        weight_decay=0.0,
        amsgrad=False,
        maximize=False,
        found_inf=refused,
        **settings,
    )


def foreach_norm(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the 2-norm of each tensor, a scalar each; on a device in one kernel for all."""
    return list(torch._foreach_norm(list(tensors)))


def saved(node: Node, name: str) -> Any:
    """Return a value that a node of the graph has saved for its backward pass: ``"result"``, ``"self"``, ..."""
    return getattr(node, f"_saved_{name}")


def device_of(node: Node) -> torch.device:
    """Return the device of a node's gradient."""
    device: torch.device = node._input_metadata[0].device
    return device


def shape_of(node: Node, output: int = 0) -> tuple[int, ...] | None:
    """Return the sizes of an output of a node, and of its gradient; ``None`` for a nested tensor."""
    try:
        sizes = tuple(node._input_metadata[output].shape)
    except RuntimeError:
        return None
    return sizes if all(type(size) is int for size in sizes) else None


def sequence_number(node: Node) -> int:
    """Return the number by which the engine runs the newest node first."""
    return node._sequence_nr()


def has_hooks(parameter: Tensor) -> bool:
    """Return whether a parameter has hooks (`Tensor.register_hook`)."""
    return bool(parameter._backward_hooks)


@contextmanager
def static_graph_waits(sinks: Sequence[Node]) -> Iterator[None]:
    """Exempt backward passes from the count by which DDP with a static graph decides when to average gradients.

    Args:
        sinks: the nodes of DDP models, of the kind `Sink`.
    """
    models = [node.ddp_weakref() for node in sinks]  # type: ignore[attr-defined]
    waiting = {model for model in models if model.static_graph and not model._static_graph_delay_allreduce_enqueued}
    try:
        for model in waiting:
            model._static_graph_delay_allreduce_enqueued = True
        yield
    finally:
        for model in waiting:
            model._static_graph_delay_allreduce_enqueued = False


def whole_parameters() -> dict[int, Tensor]:
    """Return, by the id of each parameter that `fully_shard` has sharded, the gathered one in which graphs end.

    It exists after the first forward pass; its memory is there only while its module runs.
    """
    found: dict[int, Tensor] = {}
    for reference in list(_composable_state._module_state_mapping.values()):
        state: Any = reference()
        one = getattr(state, "_fsdp_param_group", None) if not hasattr(state, "_fsdp_param_groups") else None
        for group in getattr(state, "_fsdp_param_groups", [] if one is None else [one]):  # one before torch 2.12
            for parameter in group.fsdp_params:
                if hasattr(parameter, "_unsharded_param"):
                    found[id(parameter.sharded_param)] = parameter._unsharded_param
    return found


def is_flattened(parameter: Any) -> bool:
    """Return whether FullyShardedDataParallel has put a parameter into a vector, or it is such a vector."""
    return bool(getattr(parameter, "_fsdp_flattened", False))
