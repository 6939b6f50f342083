"""Checks of the metrics that a training function reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from balancers.weights import fail
from hpo.core.text import quoted


def metrics_of(where: str, reported: Any, tasks: Sequence[str]) -> dict[str, float]:
    """Return the metrics as numbers, in the order of the tasks.

    Args:
        where: begins a message of bad input.
        reported: by the user's code.
        tasks: names.

    Raises:
        ValueError: an unknown or a missing task, or no number.
    """
    rule = f"a number for each of the tasks {', '.join(tasks)}"
    if not isinstance(reported, Mapping):
        fail(where, rule, quoted(reported))
    missing = [task for task in tasks if task not in reported]
    unknown = [str(name) for name in reported if name not in tasks]
    if missing or unknown:
        found = [f"none of {', '.join(missing)}"] if missing else []
        found += [f"the unknown {', '.join(unknown)}"] if unknown else []
        fail(where, rule, " and ".join(found))
    return {task: _number(where, task, reported[task]) for task in tasks}


def _number(where: str, task: str, value: Any) -> float:
    try:
        return float("text" if isinstance(value, str | bytes) else value)
    except (RuntimeError, TypeError, ValueError):  # of a tensor with several elements
        fail(where, f"a number for task {task}", quoted(value))


def check_measures(test: Any, train: Any) -> None:
    """Check that the splits that may be read are functions, so that they are read only where the study says so.

    Raises:
        ValueError: one is not.
    """
    for name, measure in (("test", test), ("train", train)):
        if not callable(measure) and (name == "test" or measure is not None):
            rule = f"a function that returns the metrics, since the study says when the {name} split is read"
            fail(f"trial.report({name}=...)", rule, quoted(measure))


def returned_early(done: int, epochs: int) -> str:
    """Describe a function that has returned before its last epoch."""
    found = f"a return after {done} of {epochs} epochs" if done else "a return without a report"
    return f"training function: expected trial.report() in each of the {epochs} epochs of the trial, got {found}"
