"""The sets of a problem's arguments that a tuned study trains its arms with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hpo.core.errors import StudyError
from hpo.core.text import complaint, cut, listed
from hpo.problems import load_problem
from hpo.problems.base import Problem
from hpo.problems.data_digest import data_attributes
from hpo.problems.registry import arguments_of
from hpo.problems.training_function import AnyProblem
from hpo.study.spec import Study
from search_spaces import argument_text, argument_values

OWN = ""  # the label of the problem's own arguments


class ArgumentSet(NamedTuple):
    """Values of the arguments that a study tunes.

    Attributes:
        label: in the keys of arms; empty for the problem's own values.
        values: of each argument that is tuned.
        data_hash: of the problem with these values.
    """

    label: str
    values: Mapping[str, Any]
    data_hash: str


def argument_sets(study: Study, problem: AnyProblem) -> list[ArgumentSet]:
    """Return the sets of arguments of a study, the problem's own first; only these if it tunes none.

    Args:
        study: the spec.
        problem: with its own arguments.

    Raises:
        StudyError: an argument that the problem does not take or that has no default, a value that it refuses, or an
            argument that decides the data, the tasks or the epochs.
    """
    if study.tune is None:
        return [ArgumentSet(OWN, {}, problem.data_hash())]
    own = _own_values(study)
    drawn = argument_values(study.tune.space, study.tune.trials - 1, study.seed)
    found = {argument_text(values): values for values in drawn if values != own}
    sets = [ArgumentSet(OWN, own, problem.data_hash())]
    for label, values in found.items():
        other = _with(study, values)
        for name, value in values.items():
            if value != own[name]:
                _check_kept(name, value, problem, _with(study, own | {name: value}))
        sets.append(ArgumentSet(label, values, other.data_hash()))
    return sets


def _own_values(study: Study) -> dict[str, Any]:
    """The defaults of the arguments that are tuned."""
    assert study.tune is not None
    defaults = arguments_of(study.problem.name)
    for name in study.tune.arguments:
        if name not in defaults:
            allowed = (
                f"an argument of problem {study.problem.name!r} that has a default ({listed(defaults) or 'none'})"
            )
            raise StudyError(complaint("tune", allowed, cut(repr(name))))
    return {name: defaults[name] for name in study.tune.arguments}


def _with(study: Study, values: Mapping[str, Any]) -> AnyProblem:
    return load_problem(study.problem.name, {**study.problem.arguments, **values})


def _check_kept(name: str, value: Any, own: AnyProblem, other: AnyProblem) -> None:
    """Check that an argument decides training alone.

    The default hash of the data is of all attributes, of which only those that hold data count here.
    """
    for what, before, after in (("tasks", list(own.tasks), list(other.tasks)), ("epochs", own.epochs, other.epochs)):
        if before != after:
            raise StudyError(complaint(f"tune.{name}", f"an argument that leaves the {what} as they are", value))
    if isinstance(own, Problem) and type(own).data_hash is Problem.data_hash:
        same = data_attributes(own) == data_attributes(other)
    else:
        same = own.data_hash() == other.data_hash()
    if not same:
        raise StudyError(complaint(f"tune.{name}", "an argument that leaves the data as they are", value))
