"""The shared layer of a problem that names none: found on its first batches, the same in every trial of a seed."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import islice

import torch
from torch import nn

from balancers.found_layer import layers_of, search_in
from balancers.shared_layer import Shared, is_auto
from balancers.shared_search import is_present
from balancers.weights import fail
from hpo.problems.base import Problem, to_device
from hpo.training.autocast import losses_of
from hpo.training.resumable_loader import DataOrder, read_state, seed_all, set_state

BATCHES = 64  # to see each task in, where not every batch has examples of all


def shared_layer_of(problem: Problem, model: nn.Module, seed: int, device: torch.device) -> Shared:
    """W in a model of a problem: what the problem returns, or the last layer that every task reaches.

    Args:
        problem: the user's.
        model: built with this seed, on this device.
        seed: of the trial.
        device: where it trains.

    Raises:
        ValueError: it does not name one, and none is found.
    """
    shared = problem.shared_layer(model)
    if not isinstance(shared, str):
        return shared
    if not is_auto(shared):
        fail("shared_layer(model)", "a module, a parameter, a list of these, or 'auto'", repr(shared))
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    names = found_names(problem, seed, device)
    return [modules[name] if name in modules else parameters[name] for name in names]


def is_left_out(problem: Problem, model: nn.Module) -> bool:
    """Return whether a problem leaves it to us to find W."""
    return is_auto(problem.shared_layer(model))


def found_names(problem: Problem, seed: int, device: torch.device) -> list[str]:
    """The names of the layers that are W: those of a network and batches that a trial of this seed begins with.

    They are built for this alone, so that a trial finds its network, its data and the random generators untouched.

    Raises:
        ValueError: none is found; a task has no loss in the first batches.
    """
    before = read_state(device)
    try:
        return _find(copy.copy(problem), seed, device)
    except ValueError as error:
        raise ValueError(f"shared_layer(model): is left out, and no shared layer was found. {error}") from error
    finally:
        set_state(before, device)


def _find(problem: Problem, seed: int, device: torch.device) -> list[str]:
    seed_all(seed)
    model = problem.build_model(seed).to(device).train()
    search, tasks = search_in(model), [task.name for task in problem.tasks]
    missing, seen = tasks, 0
    batches = DataOrder(problem.loader("train", seed), device).epoch()
    for batch in islice(batches, BATCHES):
        seen += 1
        losses: Mapping[str, object] = losses_of(problem, model, to_device(batch, device), device)
        for task in missing:
            loss = losses.get(task)
            if isinstance(loss, torch.Tensor) and is_present(loss):
                search.add(task, loss)
        missing = [task for task in tasks if task not in search.tasks]
        if not missing:
            break
    if missing:
        rule = f"a loss of each task that reaches a weight in the first {seen} batches"
        fail("losses", rule, f"none of {', '.join(missing)}")
    return list(layers_of(model, search.last()))
