"""The shared layer of a model, found from its losses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from balancers.sharded import graph_leaves
from balancers.shared_search import SharedSearch, is_present
from balancers.weights import fail

Found = dict[str, nn.Module | nn.Parameter]


def find_shared_layer(model: nn.Module, losses: Mapping[str, Any]) -> Found:
    """Find W: the last layer of a model that every task reaches, by its name.

    A task reaches a layer if its gradient there is not zero. Of the layers that all tasks reach, those are taken
    after which all tasks reach no other; the order is that in which the losses use them, not that in which the model
    lists them. Layers that lie beside each other, as the experts of MMoE and PLE do, are found together. Biases,
    normalization layers and scales do not count. Also left out are

    - an embedding that is a head's weight too (tied embeddings),
    - a layer in which each task reads rows of its own, as one output layer for all tasks,
    - the tower of one task whose output another task's loss uses too, as the click tower of ESMM.

    It runs each loss back once, keeps the graph, and leaves ``.grad`` as it is.

    Args:
        model: whose parameters count.
        losses: for each task its loss with its graph, as a balancer gets them: of one batch, or of several where the
            tasks have batches of their own.

    Returns:
        For each layer its name in the model and the module; the parameter, where its module has other weights too.
        As a rule there is one. ``shared=found.values()`` hands them to a balancer.

    Raises:
        ValueError: a task is absent; the tasks share no layer; the graph shows no order, as inside a compiled module.

    >>> import torch
    >>> from balancers import GradNorm, find_shared_layer
    >>> _ = torch.manual_seed(0)
    >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU())
    >>> model = torch.nn.ModuleDict({"trunk": trunk, "near": torch.nn.Linear(8, 1), "far": torch.nn.Linear(8, 1)})
    >>> features = model["trunk"](torch.randn(16, 4))
    >>> losses = {task: model[task](features).square().mean() for task in ("near", "far")}
    >>> found = find_shared_layer(model, losses)
    >>> found
    {'trunk.2': Linear(in_features=8, out_features=8, bias=True)}
    >>> balancer = GradNorm.direct(["near", "far"], shared=found.values())
    """
    if not isinstance(model, nn.Module):
        fail("model", "a torch.nn.Module", type(model).__name__)
    if not isinstance(losses, Mapping) or not losses:
        fail("losses", "a loss for each task", losses if isinstance(losses, Mapping) else type(losses).__name__)
    if absent := [task for task, loss in losses.items() if not is_present(loss)]:
        rule = "a loss of every task, with a graph and neither 0 nor NaN"
        fail("losses", rule, f"none of {', '.join(absent)}")
    search = search_in(model)
    for task, loss in losses.items():
        search.add(task, loss)
    return layers_of(model, search.last())


def search_in(model: nn.Module) -> SharedSearch:
    """A search in which only the parameters of a model count."""
    names = dict(model.named_parameters())
    return SharedSearch(dict(zip(map(id, graph_leaves(list(names.values()))), names, strict=True)))


def layers_of(model: nn.Module, weights: Iterable[Tensor]) -> Found:
    """The modules that hold some weights, by name; the parameters, where a module holds more than a layer."""
    chosen, parameters = set(map(id, weights)), list(model.parameters())
    wanted = {id(p) for p, leaf in zip(parameters, graph_leaves(parameters), strict=True) if id(leaf) in chosen}
    found: Found = {}
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        held = {name: parameter for name, parameter in own.items() if id(parameter) in wanted}
        if not held:
            continue
        others = [parameter for parameter in own.values() if parameter.dim() > 1 and id(parameter) not in wanted]
        if prefix and not others and not any(True for child in module.children() for _ in child.parameters()):
            found[prefix] = module
        else:
            found |= {f"{prefix}.{name}" if prefix else name: parameter for name, parameter in held.items()}
        wanted -= set(map(id, held.values()))
    return found
