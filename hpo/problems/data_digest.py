"""The default hash of a problem's data: of what its attributes contain, never of where they are in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import PurePath
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from hpo.problems.code_digest import ValueWalk

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, PurePath, torch.dtype, torch.device, torch.Size)
# Their repr is abbreviated, is in an order that changes, or has an address.
_UNWRITTEN = (Tensor, np.ndarray, set, frozenset, nn.Module, Dataset, FunctionType, MethodType)


def attribute_texts(owner: object) -> dict[str, str]:
    """A text for each attribute of an object, the same in every process.

    The repr, where it has the content. Otherwise arrays, tensors, sets, datasets, dataclasses, modules and objects of
    the owner's own module count by their content, functions by their code, and all else by its type and, unless it
    has an address, its repr.
    """
    return {name: _text(value, type(owner).__module__) for name, value in sorted(vars(owner).items())}


def data_attributes(owner: object) -> dict[str, str]:
    """Return the same for the attributes that hold data: tensors, arrays, datasets, and what contains them."""
    texts = attribute_texts(owner)
    return {name: texts[name] for name, value in vars(owner).items() if _holds_data(value)}


def _holds_data(value: Any) -> bool:
    parts = [*value.values()] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    return isinstance(value, Tensor | Dataset) or _is_array(value) or any(map(_holds_data, parts))


def is_plain(value: Any) -> bool:
    """Return whether a value consists of numbers, text and the like, in lists, tuples and mappings."""
    if isinstance(value, dict):
        return all(map(is_plain, [*value, *value.values()]))
    return all(map(is_plain, value)) if type(value) in (list, tuple) else type(value) in _PLAIN


def _text(value: Any, home: str) -> str:
    if isinstance(value, _PLAIN):
        return repr(value)
    if _is_written_out(value) and not _ADDRESS.search(text := repr(value)):
        return text
    return json.dumps(_DataWalk(home).describe(value))


def _is_written_out(value: Any) -> bool:
    """Return whether nothing within a value is known to have a repr that does not say all of it."""
    todo, seen = [value], set[int]()
    while todo:
        one = todo.pop()
        if isinstance(one, _UNWRITTEN) or _is_array(one):
            return False
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            todo += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple):
            todo += one
        elif is_dataclass(one) and not isinstance(one, type):
            todo += vars(one).values() if hasattr(one, "__dict__") else []
    return True


def _is_array(value: Any) -> bool:
    """An image, a column or a table; a single number of numpy writes itself out."""
    return hasattr(type(value), "__array__") and not isinstance(value, np.generic)


class _DataWalk(ValueWalk):
    """Describes data: more kinds by content than code needs."""

    def _content(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return [self.describe(dict(value.state_dict()))]  # evaluation mode is no data
        if isinstance(value, set | frozenset):  # each by itself, since their order may change
            return self._unordered(type(self)(self._home).describe(one) for one in value)
        if isinstance(value, np.ndarray) and value.dtype == object:
            return [list(value.shape), [self.describe(one) for one in value.ravel().tolist()]]
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            return super()._content(value.to_dense())
        return super()._content(value)

    def _other(self, value: Any) -> Any:
        if _is_array(value):
            return [self.describe(np.asarray(value))]
        text = repr(value)
        return [] if _ADDRESS.search(text) else [text]
