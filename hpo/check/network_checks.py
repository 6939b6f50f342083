"""Checks of the network, its losses and the first step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from balancers import GradNorm
from balancers.task_reach import leaves_below
from hpo.check.context import OTHER_SEED, SEED, CheckContext, Notes
from hpo.check.words import apart, every, values
from hpo.core.number_format import memory, number
from hpo.core.text import listed
from hpo.problems.base import to_device
from hpo.training.found_layer import shared_layer_of
from hpo.training.global_state import GlobalState
from hpo.training.methods import build_balancer
from hpo.training.resumable_loader import seed_all

GRADNORM = {"recipe": "robust", "alpha": 0.5}


def check_model(context: CheckContext) -> Notes:
    """Its initial parameters hang on the seed, and on nothing else."""
    seed_all(SEED)
    model: Any = context.problem.build_model(SEED)
    if not isinstance(model, nn.Module):
        yield "fault", f"build_model() gives {type(model).__name__}", "a torch.nn.Module"
        return
    context.model, context.state = model.to(context.device), GlobalState()
    same, other = (state(context.build(seed)) for seed in (SEED, OTHER_SEED))
    if different := differing(state(context.model), same):
        found = f"build_model({SEED}) called twice gives networks that differ in {listed(different)}"
        yield "fault", found, "the same seed gives the same initial network"
    elif not differing(same, other):
        found = f"build_model({SEED}) and build_model({OTHER_SEED}) give the same network"
        yield "warning", found, "another seed gives another initial network"
    else:
        yield "ok", f"{sum(value.numel() for value in same.values()):,} parameters, fixed by the seed", ""


def state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; those of a lazy layer are not there before the first batch."""
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach() for name, tensor in tensors.items() if not nn.parameter.is_lazy(tensor)}


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same in both."""
    names = dict.fromkeys([*one, *other])
    return [name for name in names if not (name in one and name in other and torch.equal(one[name], other[name]))]


def check_losses(context: CheckContext) -> Notes:
    """One scalar for each task, as every balancer takes it."""
    context.batch = to_device(next(context.order().epoch()), context.device)
    context.model.train()
    losses: Any = context.problem.losses(context.model, context.batch)
    if not isinstance(losses, Mapping):
        yield "fault", f"losses() gives {type(losses).__name__}", "a mapping from each task to its loss"
        return
    if losses.keys() != set(context.tasks):
        yield "fault", f"losses() has {listed(map(str, losses)) or 'none'}", f"exactly {every(context.tasks)}"
        return
    context.losses = {task: losses[task] for task in context.tasks}
    faults = [note for task, loss in context.losses.items() for note in _faults_of(task, loss)]
    yield from faults
    if not faults:
        numbers = {task: float(loss.detach()) for task, loss in context.losses.items()}
        yield "ok", f"of the first batch: {values(numbers)}{apart(numbers)}", ""
        leaves = {task: leaves_below(loss) for task, loss in context.losses.items()}
        context.reached = {task: {id(leaf) for leaf in found} for task, found in leaves.items()}


def _faults_of(task: str, loss: Any) -> Notes:
    """What a balancer would refuse."""
    if not isinstance(loss, Tensor):
        yield "fault", f"the loss of {task} is a {type(loss).__name__}", "a scalar tensor"
    elif loss.numel() != 1:
        yield "fault", f"the loss of {task} has the shape {tuple(loss.shape)}", "a scalar tensor"
    elif not loss.requires_grad:
        yield "fault", f"the loss of {task} has no graph", "a tensor computed from the model's parameters"
    elif not 0 < float(loss.detach()) < math.inf:
        yield "fault", f"the loss of {task} is {number(float(loss.detach()))}", "finite and > 0 in the first step"


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
    optimizer: Any = context.problem.build_optimizer(context.model)
    kind = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        yield "fault", f"build_optimizer() gives {kind}", "a torch.optim.Optimizer"
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in _trainable(context.model) if id(parameter) not in held]
    if held.isdisjoint(map(id, context.model.parameters())):
        yield "fault", f"{kind} has no parameter of the model", "the parameters of the model it was given"
    elif missing:
        yield "warning", f"{kind} does not have {listed(missing)}", "all parameters that require grad"
    else:
        yield "ok", f"{kind} has every parameter", ""


def check_gradnorm(context: CheckContext) -> Notes:
    """One step, from losses to optimizer, and how it takes the gradients of the shared layer."""
    context.forget_graph()
    model = context.build().train()
    shared = shared_layer_of(context.problem, model, SEED, context.device)
    balancer = build_balancer("gradnorm", GRADNORM, context.tasks, shared, steps=1)
    optimizer = context.problem.build_optimizer(model)
    if context.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(context.device)
    balancer.backward(context.problem.losses(model, context.batch))
    if bad := [name for name, parameter in model.named_parameters() if not _is_finite(parameter.grad)]:
        found = f"the gradient of {listed(bad)} is not finite in the first step"
        yield "fault", found, "losses with a finite gradient; sqrt, log and norm have none at 0"
        return
    optimizer.step()
    context.trained = model, optimizer
    assert isinstance(balancer, GradNorm)
    assert balancer.path is not None
    yield "ok", f"{balancer.path.name}: {balancer.path.why}", ""


def _is_finite(gradient: Tensor | None) -> bool:
    if gradient is None:
        return True
    numbers = gradient.coalesce().values() if gradient.is_sparse else gradient
    return bool(numbers.isfinite().all())


def check_memory(context: CheckContext) -> Notes:
    """What the parameters take, and all that goes with them."""
    model, optimizer = context.trained
    parameters = list(model.parameters())
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    held = [tensor for held in optimizer.state.values() for tensor in held.values() if isinstance(tensor, Tensor)]
    alone = sum(parameter.nbytes for parameter in parameters)
    together = alone + sum(tensor.nbytes for tensor in [*gradients, *held])
    found = f"{memory(alone)} of parameters, {memory(together)} with gradients and the optimizer's state"
    if context.device.type == "cuda":
        found += f"; {memory(torch.cuda.max_memory_allocated(context.device))} at most in a GradNorm step"
    yield "ok", found, ""
    del context.trained
