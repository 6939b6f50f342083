"""W of a model whose parameters are sharded over ranks, by `fully_shard` (FSDP2) or other means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from balancers.torch_private import is_flattened, whole_parameters
from balancers.weights import fail


def graph_leaves(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The tensors in which the graph ends: for a parameter that `fully_shard` has sharded, the gathered one.

    They exist from the first forward pass on. Their gradients are those of the rank's own part of the batch, so the
    mean over the ranks is the gradient of the joined batch, as under DistributedDataParallel.

    Args:
        parameters: W.

    Raises:
        ValueError: a parameter is flattened, or sharded by other means.
    """
    if not dist.is_available() or not dist.is_initialized():
        return list(parameters)
    if any(map(is_flattened, parameters)):
        refuse_flattened()
    if not any(map(_placements, parameters)):
        return list(parameters)
    whole = whole_parameters()
    leaves = [whole.get(id(parameter), parameter) for parameter in parameters]
    for leaf in leaves:
        if placements := _placements(leaf):
            rule = "parameters that each rank holds whole, or that `fully_shard` alone has sharded"
            fail("shared", rule, f"a DTensor that is placed as {placements}")
    return leaves


def is_sharded(leaves: Sequence[Tensor]) -> bool:
    """Return whether some leaf of a graph is a part, or the gathered form, of a parameter that ranks share."""
    if not dist.is_available() or not dist.is_initialized():
        return False
    gathered = set(map(id, whole_parameters().values()))
    return any(id(leaf) in gathered or is_flattened(leaf) or _placements(leaf) for leaf in leaves)


def look_for_flattened(modules: Iterable[nn.Module]) -> None:
    """Look for modules that FullyShardedDataParallel has left without parameters.

    Raises:
        ValueError: there is one.
    """
    for module in modules:
        views = (value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor))
        if any(view._is_view() and is_flattened(view._base) for view in views if view.dim()):
            refuse_flattened()


def refuse_flattened() -> None:
    """Name the cause why W has no parameters of its own.

    Raises:
        ValueError: always.
    """
    rule = "parameters that keep their shape: shard the model with `torch.distributed.fsdp.fully_shard` (FSDP2)"
    fail("shared", rule, "those of FullyShardedDataParallel (FSDP1), which joins them in one vector")


def _placements(parameter: Any) -> Any:
    """Return where the parts of a DTensor are; ``None`` for any other tensor."""
    return getattr(parameter, "placements", None)
