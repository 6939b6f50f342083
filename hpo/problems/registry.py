"""The registry of problems: finding them by a registered name, or as ``package.module:Class``."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch

from hpo.core.errors import ProblemError
from hpo.core.text import complaint, message, one_line
from hpo.core.user_calls import is_interrupt
from hpo.problems.arguments import check_choice, check_count, check_positive, shown
from hpo.problems.base import Problem, Task
from hpo.problems.by_value import SCRIPT, kept_class
from hpo.problems.training_function import AnyProblem, FunctionProblem, ProblemKind, TrainingFunction

__all__ = ["ProblemInfo", "arguments_of", "available", "load_problem", "search_current_folder", "target_of"]

GROUP = "gradsweep.problems"


@dataclass(frozen=True)
class ProblemInfo:
    """The entry of one registered problem in ``gradsweep problems``.

    Attributes:
        name: its name in study files.
        summary: first line of the class's docstring.
        arguments: each argument of the constructor with its default as Python writes it, or ``"required"``.
        tasks: the tasks with default arguments; empty where an argument is required.
        error: why it cannot be used, ``None`` if it can.
    """

    name: str
    summary: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()
    error: str | None = None


def load_problem(name: str, arguments: Mapping[str, Any]) -> AnyProblem:
    """Create the problem that a study names.

    Args:
        name: an entry point of the group ``gradsweep.problems`` (built in: ``census``, ``earth``, ``multi_fashion``,
            ``nyuv2``, ``qm9``, ``toy``; other packages add theirs), or ``package.module:Class``, for which the
            current folder is searched too, last. A training function is named like a class.
        arguments: keyword arguments of the class or function.

    Raises:
        ProblemError: in one line, what was found and what is allowed: an unknown name, a module that cannot be
            imported, an attribute that is missing or neither a complete subclass of `Problem` nor a training
            function, an unknown, missing or refused argument, tasks that are empty, repeated or no `Task`, epochs
            below 1.

    >>> load_problem("toy", {"functions": 10}).tasks[9]
    Task(name='f10', metric='MSE / sigma^2', direction='minimize')
    """
    return bound(name, _check_kind(name, _find(name)), arguments)


def bound(name: str, kind: ProblemKind, arguments: Mapping[str, Any]) -> AnyProblem:
    """Create the problem of a class or function.

    Raises:
        ProblemError: see `load_problem`.
    """
    return _check_problem(name, _construct(name, kind, arguments))


def target_of(name: str) -> str:
    """Return a problem's name as ``package.module:Class``, so that a node without its entry point finds it too.

    Raises:
        ProblemError: see `load_problem`.
    """
    return name if ":" in name else _entry_point(name).value


def available() -> dict[str, ProblemInfo]:
    """Return every registered problem, sorted by name; one that cannot be loaded has its error."""
    return {name: _describe(name) for name in sorted({point.name for point in entry_points(group=GROUP)})}


def arguments_of(name: str) -> dict[str, Any]:
    """Return the arguments of a problem that have a default, with it.

    Raises:
        ProblemError: see `load_problem`.
    """
    found = _parameters(_check_kind(name, _find(name)))
    return {key: value.default for key, value in found.items() if value.default is not value.empty}


def _describe(name: str) -> ProblemInfo:
    try:
        kind = _check_kind(name, _find(name))
        parameters = _parameters(kind)
        required = any(parameter.default is parameter.empty for parameter in parameters.values())
        tasks = () if required else tuple(load_problem(name, {}).tasks)
    except BaseException as error:  # another package's code: whatever it raises must not break the listing
        if is_interrupt(error):
            raise
        return ProblemInfo(name, error=_line(error))
    summary = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    return ProblemInfo(name, summary, {key: _default(value) for key, value in parameters.items()}, tasks)


def _default(parameter: inspect.Parameter) -> str:
    return "required" if parameter.default is parameter.empty else repr(parameter.default)


def _find(name: str) -> Any:
    if (kept := kept_class(name)) is not None:
        return kept
    module, colon, attribute = name.partition(":")
    if module == SCRIPT or "@" in attribute:
        raise ProblemError(
            f"problem: {name!r} is a class of a notebook or script, which no other process can import; "
            "give the class itself to gradsweep.Study, or move it to a module and name it as package.module:Class"
        )
    if colon:
        search_current_folder()
        return _import(name, module, attribute)
    point = _entry_point(name)
    return _import(name, point.module, point.attr)


def _entry_point(name: str) -> EntryPoint:
    points = entry_points(group=GROUP, name=name)
    targets = {point.value for point in points}
    if not targets:
        raise ProblemError(_unknown(name))
    if len(targets) > 1:
        raise ProblemError(
            f"problem: {name!r} is registered more than once ({_owners(points)}), "
            "name the class as 'package.module:Class'"
        )
    return next(iter(points))


def _unknown(name: str) -> str:
    known = sorted({point.name for point in entry_points(group=GROUP)})
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return complaint("problem", f"{_listed(known)} or 'package.module:Class'", f"{name!r}{hint}")


def _owners(points: Iterable[EntryPoint]) -> str:
    owners = {f"{point.value} by {point.dist.name if point.dist else 'an unnamed package'}" for point in points}
    return ", ".join(sorted(owners))


def search_current_folder() -> None:
    """Make modules in the current folder importable, after everything that is installed."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)


def _import(name: str, module: str, attribute: str) -> Any:
    if not module or not attribute:
        raise ProblemError(complaint("problem", "'package.module:Class', both parts given", repr(name)))
    try:
        found: Any = importlib.import_module(module)
    except BaseException as error:  # the user's module may raise anything, or be a script that ends itself
        if is_interrupt(error):
            raise
        raise ProblemError(_import_failure(name, module, error)) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            parts = getattr(found, "__dict__", {})  # a number has none
            classes = sorted(key for key, value in parts.items() if _is_kind(value))
            raise ProblemError(
                f"problem: {name!r} names no attribute {part!r} of {module}, its problems are: "
                f"{_listed(classes) or 'none'}"
            )
        found = getattr(found, part)
    return found


def _import_failure(name: str, module: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return (
            f"problem: {name!r} names the module {module!r}, but there is no module {error.name!r}; searched were "
            f"the installed packages and the current folder {Path.cwd()}"
        )
    return f"problem: importing {module!r} for {name!r} failed: {_line(error)}"


def _is_kind(value: Any) -> bool:
    if isinstance(value, TrainingFunction):
        return True
    return isinstance(value, type) and issubclass(value, Problem) and value is not Problem


def _check_kind(name: str, found: Any) -> ProblemKind:
    if not _is_kind(found):
        rule = "a subclass of gradsweep.Problem or a function below @gradsweep.training(...)"
        raise ProblemError(complaint(f"problem: {name!r}", rule, shown(found)))
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ProblemError(f"problem: class {name!r} lacks the methods {_listed(missing)}")
    return found  # type: ignore[no-any-return]


def _all_parameters(kind: ProblemKind) -> list[inspect.Parameter]:
    """The parameters of the constructor, or those of the function after the trial."""
    if isinstance(kind, TrainingFunction):
        return kind.parameters
    return list(inspect.signature(kind).parameters.values())


def _parameters(kind: ProblemKind) -> dict[str, inspect.Parameter]:
    """Those with a name to set; ``*args`` and ``**kwargs`` have none."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter for parameter in _all_parameters(kind) if parameter.kind in named}


def _takes_any(kind: ProblemKind) -> bool:
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in _all_parameters(kind))


def _construct(name: str, kind: ProblemKind, arguments: Mapping[str, Any]) -> AnyProblem:
    parameters = _parameters(kind)
    unknown = [] if _takes_any(kind) else sorted(set(arguments) - set(parameters))
    if unknown:
        allowed = _listed(parameters) or "none"
        raise ProblemError(complaint(f"problem: arguments of {name!r}", allowed, _listed(unknown)))
    required = {key for key, value in parameters.items() if value.default is value.empty}
    if missing := sorted(required - set(arguments)):
        raise ProblemError(f"problem: {name!r} lacks the arguments {_listed(missing)}, which have no default")
    try:
        return FunctionProblem(kind, arguments) if isinstance(kind, TrainingFunction) else kind(**arguments)
    except (TypeError, ValueError) as error:
        if isinstance(error, ProblemError) and str(error).startswith("problem."):  # it names a key of the study file
            raise
        raise ProblemError(f"problem: {name!r} refused its arguments: {_line(error)}") from error


def _check_problem(name: str, problem: AnyProblem) -> AnyProblem:
    _check_tasks(name, getattr(problem, "tasks", None))
    check_count(f"epochs of problem {name!r}", problem.epochs)
    if isinstance(problem, Problem):
        _check_training(name, problem)
    if problem.known_weights is not None:
        _check_known_weights(name, problem.known_weights, [task.name for task in problem.tasks])
    return problem


def _check_training(name: str, problem: Problem) -> None:
    check_choice(f"schedule_per of problem {name!r}", problem.schedule_per, ("epoch", "step"))
    if problem.clip_norm is not None:
        check_positive(f"clip_norm of problem {name!r}", problem.clip_norm)
    if problem.autocast not in (None, torch.bfloat16):
        raise ProblemError(
            complaint(f"autocast of problem {name!r}", "None or torch.bfloat16", shown(problem.autocast))
        )


def _check_known_weights(name: str, weights: Any, tasks: Sequence[str]) -> None:
    where = f"known_weights of problem {name!r}"
    if not isinstance(weights, Mapping) or weights.keys() != set(tasks):
        raise ProblemError(complaint(where, f"a number for each of {_listed(tasks)}", shown(weights)))
    for task, weight in weights.items():
        check_positive(f"{where}, task {task!r}", weight)


def _check_tasks(name: str, tasks: Any) -> None:
    where = f"tasks of problem {name!r}"
    if not isinstance(tasks, Sequence) or isinstance(tasks, str) or not tasks:
        raise ProblemError(complaint(where, "a list of at least one Task", shown(tasks)))
    for task in tasks:
        if not isinstance(task, Task):
            raise ProblemError(complaint(where, "hpo.problems.Task(name, metric, direction)", shown(task)))
    names = [task.name for task in tasks]
    if repeated := sorted({task for task in names if names.count(task) > 1}):
        raise ProblemError(complaint(where, "each name once", f"{_listed(repeated)} more than once"))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _line(error: BaseException) -> str:
    """Describe an exception in one line: its text, with the type's name unless it is a `ProblemError`."""
    return message(error, 1000) if isinstance(error, ProblemError) else one_line(error, 1000)
