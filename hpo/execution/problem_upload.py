"""A problem that workers cannot import (of a notebook, a script, a function), sent from driver to workers.

It goes as Ray sends functions: by cloudpickle, from the driver to the workers of its own job and to nobody else.
Nothing is unpickled that came from a file, a study or a server.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

from ray import cloudpickle

from hpo.core.errors import ProblemError
from hpo.core.text import one_line
from hpo.problems.by_value import keep, kept_class


class _Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # ray has no types
    """Also sends functions that `functools.cache` has wrapped, which cloudpickle looks for in the worker's script."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, functools._lru_cache_wrapper):
            options = value.cache_parameters()
            return _cached, (value.__wrapped__, options["maxsize"], options["typed"])
        return super().reducer_override(value)


def _cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def packed(name: str) -> bytes:
    """Pack a problem's class or training function for the workers; return an empty value if they can import it.

    Raises:
        ProblemError: the class uses something that cannot be sent.
    """
    problem_class = kept_class(name)
    if problem_class is None:
        return b""
    file = io.BytesIO()
    try:
        _Pickler(file).dump(problem_class)
    except Exception as error:  # of the problem's own values, of many kinds
        kind = "class" if isinstance(problem_class, type) else "function"
        raise ProblemError(
            f"problem: the {kind} {problem_class.__qualname__} cannot be sent to workers: {one_line(error)}; "
            "make what it uses inside it, or move it to a module"
        ) from error
    return file.getvalue()


def unpack(name: str, content: bytes) -> None:
    """Make a problem that the driver has packed available in this worker. Once per process."""
    if kept_class(name) is None:
        keep(name, cloudpickle.loads(content))
