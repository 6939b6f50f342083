"""Checks of the network, its losses and the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balancers import GradNorm
from hpo.check.context import OTHER_SEED, SEED, CheckContext, Notes
from hpo.check.words import every
from hpo.core.number_format import memory
from hpo.core.text import listed
from hpo.training.found_layer import shared_layer_of
from hpo.training.global_state import GlobalState
from hpo.training.methods import build_balancer
from hpo.training.resumable_loader import seed_all
from hpo.training.updates import Updates


def check_model(context: CheckContext) -> Notes:
    """Its initial parameters hang on the seed, and on nothing else."""
    seed_all(SEED)
    model: Any = context.problem.build_model(SEED)
    if not isinstance(model, nn.Module):
        yield "fault", f"build_model() gives {type(model).__name__}", "a torch.nn.Module"
        return
    context.model, context.state = model.to(context.device), GlobalState()
    again = context.build()
    if common := _common(context.model, again):
        found = f"build_model({SEED}) called twice gives networks that share {listed(common)}"
        yield "fault", found, "a new network each time, since each trial trains its own"
        return
    same, other = state(again), state(context.build(OTHER_SEED))
    if different := differing(state(context.model), same):
        found = f"build_model({SEED}) called twice gives networks that differ in {listed(different)}"
        yield "fault", found, "the same seed gives the same initial network"
    elif not differing(same, other):
        found = f"build_model({SEED}) and build_model({OTHER_SEED}) give the same network"
        yield "warning", found, "another seed gives another initial network"
    else:
        yield "ok", f"{sum(value.numel() for value in same.values()):,} parameters, fixed by the seed", ""


def _common(one: nn.Module, other: nn.Module) -> list[str]:
    """Names of the trainable parameters that two networks have in the same memory."""
    trained = [(name, value) for name, value in _trainable(one) if not nn.parameter.is_lazy(value)]
    places = {value.data_ptr() for _, value in _trainable(other) if not nn.parameter.is_lazy(value)} - {0}
    return [name for name, value in trained if value.data_ptr() in places]


def state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; those of a lazy layer are not there before the first batch."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in tensors.items() if not nn.parameter.is_lazy(tensor)}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same in both."""
    names = dict.fromkeys([*one, *other])
    return [name for name in names if not (name in one and name in other and torch.equal(one[name], other[name]))]


def check_parameters(context: CheckContext) -> Notes:
    """Each that is to be trained is trained by some task."""
    by_any = set.union(*context.reached.values())
    if idle := [name for name, parameter in _trainable(context.model) if id(parameter) not in by_any]:
        yield "warning", f"no loss depends on {listed(idle)}", "parameters that some task trains"
    else:
        yield "ok", "some task trains each of them", ""


def _trainable(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def check_optimizer(context: CheckContext) -> Notes:
    """It has all of the model's parameters."""
    updates = Updates(context.problem, context.model)
    kind = every(type(optimizer).__name__ for optimizer in updates.optimizers)
    held = {id(parameter) for parameter in updates.parameters()}
    missing = [name for name, parameter in _trainable(context.model) if id(parameter) not in held]
    if held.isdisjoint(map(id, context.model.parameters())):
        yield "fault", f"{kind} has no parameter of the model", "the parameters of the model it was given"
    elif missing:
        yield "warning", f"{kind} does not have {listed(missing)}", "all parameters that require grad"
    else:
        per = context.problem.schedule_per
        schedules = "".join(f"; {type(one).__name__} steps once per {per}" for one in updates.schedules)
        yield "ok", f"{kind} has every parameter{schedules}", ""


def check_gradnorm(context: CheckContext) -> Notes:
    """One step, from losses to optimizer, and how it takes the gradients of the shared layer."""
    context.forget_graph()
    model = context.build().train()
    shared = shared_layer_of(context.problem, model, SEED, context.device)
    balancer = build_balancer("gradnorm", context.gradnorm, context.tasks, shared, steps=1)
    updates = Updates(context.problem, model)
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    balancer.backward(context.losses_of(model, context.batch))
    if bad := [name for name, parameter in model.named_parameters() if not _is_finite(parameter.grad)]:
        found = f"the gradient of {listed(bad)} is not finite in the first step"
        yield "fault", found, "losses with a finite gradient; sqrt, log and norm have none at 0"
        return
    updates.step()
    context.trained = model, updates
    assert isinstance(balancer, GradNorm)
    assert balancer.path is not None
    yield "ok", f"{balancer.path.name}: {balancer.path.why}", ""


def _is_finite(gradient: Tensor | None) -> bool:
    if gradient is None:
        return True
    numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(numbers.isfinite().all())


def check_memory(context: CheckContext) -> Notes:
    """Report the memory of the parameters and of all that belongs to them."""
    model, updates = context.trained
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    states = [state for optimizer in updates.optimizers for state in optimizer.state.values()]
    held = [tensor for state in states for tensor in state.values() if isinstance(tensor, Tensor)]
    alone = sum(parameter.nbytes for parameter in parameters)
    together = alone + sum(tensor.nbytes for tensor in [*gradients, *held])
    found = f"{memory(alone)} of parameters, {memory(together)} with gradients and the optimizer's state"
    if context.device.type == "cuda":
        found += f"; {memory(torch.cuda.max_memory_allocated(context.device))} at most in a GradNorm step"
    yield "ok", found, ""
    del context.trained
