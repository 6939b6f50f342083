"""Training functions: problems that are trained by a loop of the user's own."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

from hpo.core.errors import ProblemError
from hpo.core.text import complaint, quoted
from hpo.problems.base import Problem, Task
from hpo.problems.code_digest import code_digest

_FIRST = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)

DataHash = str | Callable[..., str]
Tasks = Sequence[Task] | Callable[..., Sequence[Task]]


class TrainingFunction:
    """A function that trains a network in its own loop, as `training` returns it.

    A study names it where it would name a subclass of `Problem`. Calling it calls the function.

    Args:
        function: takes the trial, then the arguments that a study may set.
        tasks: see `training`.
        epochs: of a trial, unless the study says another number.
        data_hash: see `training`.
        prepare: see `training`.

    Raises:
        ProblemError: it is no function, or takes no trial.
    """

    def __init__(
        self,
        function: Callable[..., object],
        tasks: Tasks,
        epochs: int,
        data_hash: DataHash | None,
        prepare: Callable[..., object] | None = None,
    ) -> None:
        if not isinstance(function, FunctionType) or inspect.isgeneratorfunction(function) or _is_async(function):
            raise ProblemError(complaint("training", "a function without yield and async", quoted(function)))
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters or parameters[0].kind not in _FIRST or parameters[0].default is not inspect.Parameter.empty:
            rule = "a function whose first parameter is the trial, as in def train(trial, lr=1e-3)"
            raise ProblemError(complaint("training", rule, f"{function.__name__}{inspect.signature(function)}"))
        functools.update_wrapper(self, function)
        self.__qualname__ = function.__qualname__
        self.function, self.tasks, self.epochs = function, tasks, epochs
        self.parameters = parameters[1:]
        self._data_hash, self.prepare = data_hash, prepare

    def __call__(self, *arguments: Any, **named: Any) -> object:
        """Call the function."""
        return self.function(*arguments, **named)

    @functools.cached_property
    def code(self) -> str:
        """A digest of the code, read once per process, since a value that the code uses may change in training."""
        return code_digest(self.function)

    def complete(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments with the defaults of the others."""
        defaults = {one.name: one.default for one in self.parameters if one.default is not one.empty}
        return defaults | dict(arguments)

    def data_hash(self, arguments: Mapping[str, Any], tasks: Sequence[Task]) -> str:
        """Name the code and the data of trials with these arguments: see `training`."""
        if callable(self._data_hash):
            return self._data_hash(**self.complete(arguments))
        named = self.code if self._data_hash is None else self._data_hash
        text = json.dumps([self.__qualname__, named, [task.name for task in tasks]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_async(function: FunctionType) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


class FunctionProblem:
    """A training function with its arguments: what a study trains many times over.

    Attributes:
        training: the function.
        arguments: of each call, after the trial.
        tasks: as of a `Problem`.
        epochs: as of a `Problem`.
        known_weights: none are known.
    """

    known_weights: Mapping[str, float] | None = None

    def __init__(self, training: TrainingFunction, arguments: Mapping[str, Any]) -> None:
        self.training, self.arguments = training, dict(arguments)
        given = training.tasks
        self.tasks: Sequence[Task] = given(**training.complete(arguments)) if callable(given) else given
        self.epochs = training.epochs

    def prepare(self) -> None:
        """Prepare the data or check what the function needs, as it says in `training`."""
        if self.training.prepare is not None:
            self.training.prepare(**self.training.complete(self.arguments))

    def data_hash(self) -> str:
        """Name the code and the data, so that trials of other code are other trials."""
        return self.training.data_hash(self.arguments, self.tasks)


ProblemKind = type[Problem] | TrainingFunction
"""A class or a function that a study may name."""

AnyProblem = Problem | FunctionProblem
"""A problem, or a function with its arguments, that a trial trains."""


def training(
    tasks: Tasks,
    *,
    epochs: int = 10,
    data_hash: DataHash | None = None,
    prepare: Callable[..., object] | None = None,
) -> Callable[[Callable[..., object]], TrainingFunction]:
    """Make a problem of a function that trains a network in its own loop.

    The function is called with a `Trial`, once for each training run, and with the arguments in the study's
    ``problem``.

    Args:
        tasks: one `Task` for each loss that the function weighs, or a function of its arguments that returns them.
        epochs: of a trial, unless the study file says another number; the function finds it in the trial.
        data_hash: names the code and the data: trials with another one are other trials. A text, or a function of the
            arguments. Default: a digest of the function and of everything in its module that it uses, so that an
            edited function trains anew. With a text of yours, edits are your own affair.
        prepare: called with the arguments before a study runs, and once in each worker, in one process of a machine
            at a time: for data to download, or for a check of what the function needs.

    Raises:
        ProblemError: the function takes no trial.

    >>> from gradsweep import Task, training
    >>> @training([Task("depth", "RMSE (m)"), Task("normals", "angle (degrees)")], epochs=20)
    ... def train(trial, lr: float = 1e-3):
    ...     '''Train the network of the paper.'''
    >>> [task.name for task in train.tasks], train.epochs
    (['depth', 'normals'], 20)
    """
    return lambda function: TrainingFunction(function, tasks, epochs, data_hash, prepare)
