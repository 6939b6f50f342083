"""A digest of a class or a function: its code, and all that it uses of its module. Comments are ignored."""

from __future__ import annotations

import dis
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...), PurePath)
_PLAIN_TORCH = (torch.dtype, torch.device, torch.Size)
NO_IDENTITY = {"identity": False}  # metadata of a dataclass's field on which no training depends
_READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")  # Python's instructions that read a global


def code_digest(described: type | FunctionType) -> str:
    """Digest a class or a function with the functions, classes and values of its own module that it uses.

    The same code has the same digest in every process of one version of Python: addresses, files, lines and comments
    are not included. Numbers, text, collections, arrays, tensors, datasets and dataclasses are included by content,
    all other values by type.
    """
    text = json.dumps(ValueWalk(described.__module__).describe(described))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:12]


class ValueWalk:
    """Describes values as JSON, each once; subclasses may know more kinds of values.

    Args:
        home: the module whose functions and classes are described in full; all others are by name.
    """

    def __init__(self, home: str) -> None:
        self._home = home
        self._seen = dict[int, int]()
        self._held = list[object]()  # so that no other value takes an address that has been seen

    def describe(self, value: Any) -> Any:
        """A value without its address."""
        if isinstance(value, _PLAIN + _PLAIN_TORCH):
            return [_name(type(value)), repr(value)]
        if id(value) in self._seen:
            return ["seen", self._seen[id(value)]]
        if not isinstance(value, tuple | frozenset):  # Python itself makes one of several that are equal, or not
            self._seen[id(value)] = len(self._held)
            self._held.append(value)
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        if isinstance(value, type | FunctionType):
            return self._definition(value)
        return [_name(type(value)), self._content(value)]

    def _definition(self, value: Any) -> Any:
        if value.__module__ != self._home:
            return [value.__module__, value.__qualname__]
        return self._class(value) if isinstance(value, type) else self._function(value)

    def _class(self, described: type) -> list[Any]:
        bases = [self.describe(base) for base in described.__bases__]
        parts = {
            name: self.describe(value)
            for name, value in sorted(vars(described).items())
            if not (name.startswith("__") and name.endswith("__")) or _is_code(value)
        }
        return ["class", described.__qualname__, bases, parts]

    def _function(self, function: FunctionType) -> list[Any]:
        used = sorted(_globals_of(function.__code__) & function.__globals__.keys())
        cells = [cell for cell in function.__closure__ or () if _is_filled(cell)]
        return [
            "function",
            self._code(function.__code__),
            self.describe(function.__defaults__),
            self.describe(function.__kwdefaults__),
            [self.describe(cell.cell_contents) for cell in cells],
            {name: self.describe(function.__globals__[name]) for name in used},
        ]

    def _code(self, code: CodeType) -> list[Any]:
        constants = [self._code(one) if isinstance(one, CodeType) else self.describe(one) for one in code.co_consts]
        names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
        return [code.co_name, code.co_code.hex(), code.co_argcount, code.co_flags, names, constants]

    def _content(self, value: Any) -> Any:
        """Return the parts of a value; empty for a value that is described only by its type."""
        if isinstance(value, Mapping):
            return self._unordered((self.describe(key), self.describe(one)) for key, one in value.items())
        if isinstance(value, list | tuple):
            return [self.describe(one) for one in value]
        if isinstance(value, set | frozenset):
            return self._unordered(self.describe(one) for one in value)
        if isinstance(value, torch.Tensor | np.ndarray):
            return _array(value)
        if (wrapped := _wrapped(value)) is not None:
            return [self.describe(one) for one in wrapped]
        if is_dataclass(value) or isinstance(value, Dataset) or type(value).__module__ == self._home:
            return [self.describe(type(value)), self.describe(_attributes(value))]
        return self._other(value)

    def _other(self, value: Any) -> Any:
        """The parts of a value of any other kind: none."""
        del value
        return []

    @staticmethod
    def _unordered(parts: Iterable[Any]) -> list[str]:
        return sorted(json.dumps(part) for part in parts)


def _attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, without fields that are no part of its identity."""
    left_out = {one.name for one in fields(value) if one.metadata == NO_IDENTITY} if is_dataclass(value) else set()
    return {name: one for name, one in getattr(value, "__dict__", {}).items() if name not in left_out}


def _name(described: type) -> str:
    return f"{described.__module__}.{described.__qualname__}"


def _is_code(value: Any) -> bool:
    return isinstance(value, FunctionType) or _wrapped(value) is not None


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # of a class that is still being made
        return False


def _wrapped(value: Any) -> list[Any] | None:
    """Return the functions inside a method, a property or a decorator's object; ``None`` for other values."""
    if isinstance(value, staticmethod | classmethod | MethodType):
        return [value.__func__]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, functools.cached_property):
        return [value.func]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, functools._lru_cache_wrapper):
        return [value.__wrapped__]
    return None


def _globals_of(code: CodeType) -> set[str]:
    """Return the global names that a function and its inner functions read, without attributes of the same name."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname.startswith(_READS)}
    return found.union(*(_globals_of(one) for one in code.co_consts if isinstance(one, CodeType)))


def _array(value: torch.Tensor | np.ndarray[Any, Any]) -> list[str]:
    """Return type, shape and bytes of an array; only type and shape if it has no bytes."""
    facts = [str(value.dtype), str(tuple(value.shape))]
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        if value.dtype == object:
            return facts
        return [*facts, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantised
        return facts
