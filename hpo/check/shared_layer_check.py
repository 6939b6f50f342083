"""The check of the shared layer, and the one that is proposed instead."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from balancers.found_layer import Found, layers_of, search_in
from balancers.shared_gradients import gradient_norms
from balancers.shared_layer import parameters_of
from balancers.shared_search import SharedSearch
from balancers.task_reach import is_nonzero
from hpo.check.context import SEED, CheckContext, Notes
from hpo.check.words import apart, every, values
from hpo.core.text import listed
from hpo.training.found_layer import is_left_out, shared_layer_of


def check_shared_layer(context: CheckContext) -> Notes:
    """It is the model's, every task's loss runs through it, and it is the last such layer."""
    model = context.model
    shared = parameters_of(shared_layer_of(context.problem, model, SEED, context.device))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = {id(parameter) for parameter in shared}
    if not own <= names.keys():
        yield "fault", "shared_layer(model) is no part of the model it was given", "a layer of that model"
        return
    layer, search = listed(names[id(parameter)] for parameter in shared), search_in(model)
    for task, loss in context.losses.items():
        search.add(task, loss)
    proposal = _proposal(search, model)
    if blind := [task for task, reached in context.reached.items() if own.isdisjoint(reached)]:
        found = f"{every(blind)}: the loss does not depend on {layer}"
        yield "fault", found, f"a layer that the loss of every task runs through{proposal}"
        return
    if is_left_out(context.problem, model):
        layers = layers_of(model, shared)
        yield from _gradient_norms(context, f"{listed(layers)}, found as {_last(layers)}", shared)
        return
    if partly := [names[one] for one in own - _reached_by_all(context, own)]:
        yield "warning", f"not every task reaches {listed(sorted(partly))}", f"weights that all tasks share{proposal}"
    if len(context.tasks) > 1:
        yield from _other_layers(search, layer, shared, names, proposal)
    yield from _gradient_norms(context, layer, shared)


def _proposal(search: SharedSearch, model: nn.Module) -> str:
    """The layer that would be found, in words; nothing where none is."""
    try:
        found = layers_of(model, search.last())
    except ValueError:
        return ""
    return f": {listed(found)} {'is' if len(found) == 1 else 'are'} {_last(found)}"


def _last(found: Found) -> str:
    return f"the last layer{'s' if len(found) > 1 else ''} that every task reaches"


def _other_layers(
    search: SharedSearch, layer: str, shared: list[Tensor], names: Mapping[int, str], proposal: str
) -> Notes:
    """Layers after the shared layer or beside it, and what all tasks reach although they do not share it."""
    own = {id(parameter) for parameter in shared}
    if apart := [names[id(weight)] for weight in search.not_shared() if id(weight) in own]:
        found = f"{listed(apart)}: each task reads rows of its own, or a head uses it too (tied embeddings)"
        yield "warning", found, f"weights that all tasks share{proposal}"
    if after := search.after(shared):
        found = f"after {layer} every task also reaches {listed(names[id(weight)] for weight in after)}"
        yield "warning", found, f"the last layer whose weights all tasks share{proposal}"
    elif proposal:
        last = {id(weight) for weight in search.last()}
        if (missing := last - own) and last & own:
            found = f"beside {layer} every task also reaches {listed(names[one] for one in missing)}"
            yield "warning", found, f"all of them together{proposal}"


def _reached_by_all(context: CheckContext, own: set[int]) -> set[int]:
    """Return the ids of the parameters on which the gradient of every task is not zero.

    An edge of the graph is not enough: where outputs are concatenated and taken apart again, every task has an edge
    to the heads of the others, with a gradient of exactly zero. For a task whose gradient is zero on the whole shared
    layer, as that of a head that starts at zero, the edges count; `_gradient_norms` names such a task.
    """
    parameters = [parameter for parameter in context.model.parameters() if parameter.requires_grad]
    reached = {id(parameter) for parameter in parameters}
    for task, loss in context.losses.items():
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        nonzero = {id(one) for one, gradient in zip(parameters, found, strict=True) if is_nonzero(gradient)}
        reached &= context.reached[task] if own.isdisjoint(nonzero) else nonzero
    return reached


def _gradient_norms(context: CheckContext, layer: str, shared: list[Tensor]) -> Notes:
    found = gradient_norms(context.losses, list(context.losses), shared)
    norms = dict(zip(context.losses, found.tolist(), strict=True))
    if bad := {task: norm for task, norm in norms.items() if not 0 < norm < math.inf}:
        yield "fault", f"{layer}: norm of the gradient: {values(bad)}", "finite and > 0 in the first step"
        return
    told = apart(norms)
    searched = "; the static search lies around the weights that balance them" if told else ""
    yield "ok", f"{layer}: norms of the gradients: {values(norms)}{told}{searched}", ""
