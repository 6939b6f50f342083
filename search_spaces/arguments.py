"""Values of a problem's own arguments (learning rate, weight decay, width) to train every arm with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from scipy.stats import qmc

from search_spaces.checks import check_integer, fail

DIGITS = 4  # of a drawn number, so that its text is the number
_RANGE = "a list [lowest, highest] of two numbers with lowest < highest"
_LOG = "{log: [lowest, highest]} with 0 < lowest < highest"
_CHOICE = "{choice: [...]} with at least two different texts, numbers, true or false"
SPACE = "[lowest, highest], {log: [lowest, highest]} or {choice: [value, value, ...]}"


def argument_space(field: str, found: object) -> BaseDistribution:
    """Return the distribution that a range or a list of choices describes.

    Args:
        field: names it in messages.
        found: ``[lowest, highest]``, ``{"log": [lowest, highest]}`` or ``{"choice": [value, ...]}``. Two whole
            numbers are a range of whole numbers.

    Raises:
        ValueError: it is none of these.

    >>> argument_space("learning_rate", {"log": [3e-4, 3e-2]})
    FloatDistribution(high=0.03, log=True, low=0.0003, step=None)
    >>> argument_space("layers", [1, 4])
    IntDistribution(high=4, log=False, low=1, step=1)
    """
    if isinstance(found, Mapping) and set(found) == {"choice"}:
        return CategoricalDistribution(_choices(field, found["choice"]))
    if isinstance(found, Mapping) and set(found) == {"log"}:
        return _range(field, found["log"], log=True)
    if isinstance(found, Mapping):
        fail(field, SPACE, dict(found))
    return _range(field, found, log=False)


def _choices(field: str, found: object) -> Sequence[CategoricalChoiceType]:
    plain = isinstance(found, list | tuple) and all(isinstance(one, str | int | float | bool) for one in found)
    if not plain or len({repr(one) for one in found}) < max(2, len(found)):  # type: ignore[arg-type, attr-defined]
        fail(field, _CHOICE, found)
    return tuple(found)  # type: ignore[arg-type]


def _range(field: str, found: object, log: bool) -> BaseDistribution:
    rule = _LOG if log else _RANGE
    if not isinstance(found, list | tuple) or len(found) != 2 or any(not _is_number(end) for end in found):
        fail(field, rule, found)
    low, high = found
    if not low < high or (log and low <= 0):
        fail(field, rule, list(found))
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def argument_values(space: Mapping[str, BaseDistribution], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return combinations of values that cover a space, at most ``count``.

    If all arguments together have no more combinations than that, all of them. Values of one argument are evenly
    spaced from end to end, on a logarithmic scale where it is one; those of several arguments are the first points of
    a scrambled Sobol sequence. Numbers have four significant digits.

    Args:
        space: the distribution of each argument.
        count: how many, >= 1.
        seed: of the sequence.

    Raises:
        ValueError: the space is empty, or the count or the seed is out of range.

    >>> argument_values({"learning_rate": FloatDistribution(1e-4, 1e-2, log=True)}, 3)
    [{'learning_rate': 0.0001}, {'learning_rate': 0.001}, {'learning_rate': 0.01}]
    >>> argument_values({"width": CategoricalDistribution((64, 128)), "layers": IntDistribution(1, 2)}, 4)[1]
    {'width': 64, 'layers': 2}
    """
    check_integer("count", count, 1)
    check_integer("seed", seed, 0)
    if not space:
        fail("space", "at least one argument", dict(space))
    if (grid := _grid(space, count)) is not None:
        return grid
    if len(space) == 1:
        u = np.linspace(0, 1, count)[:, None] if count > 1 else np.array([[0.5]])
    else:
        u = qmc.Sobol(len(space), rng=np.random.default_rng(seed)).random_base2(math.ceil(math.log2(count)))[:count]
    rows = [{name: _at(one, float(x)) for (name, one), x in zip(space.items(), row, strict=True)} for row in u]
    return list({repr(row): row for row in rows}.values())


def _grid(space: Mapping[str, BaseDistribution], count: int) -> list[dict[str, Any]] | None:
    """All combinations; ``None`` if there are more than ``count``."""
    sizes = {name: _size(one) for name, one in space.items()}
    if math.prod(sizes.values()) > count:
        return None
    values = [[_at(space[name], (k + 0.5) / size) for k in range(int(size))] for name, size in sizes.items()]
    return [dict(zip(space, row, strict=True)) for row in itertools.product(*values)]


def _size(one: BaseDistribution) -> float:
    if isinstance(one, CategoricalDistribution):
        return len(one.choices)
    return one.high - one.low + 1 if isinstance(one, IntDistribution) and not one.log else math.inf


def _at(one: BaseDistribution, u: float) -> Any:
    """Return the value at a quantile of the distribution."""
    if isinstance(one, CategoricalDistribution):
        return one.choices[min(int(u * len(one.choices)), len(one.choices) - 1)]
    assert isinstance(one, FloatDistribution | IntDistribution)
    low, high = one.low, one.high
    if isinstance(one, IntDistribution) and not one.log:
        return min(low + int(u * (high - low + 1)), high)
    x = math.exp(math.log(low) + u * math.log(high / low)) if one.log else low + u * (high - low)
    if isinstance(one, IntDistribution):
        return min(max(round(x), low), high)
    return min(max(float(f"{x:.{DIGITS}g}"), low), high)


def argument_text(values: Mapping[str, Any]) -> str:
    """Return values as ``learning_rate=0.01,width=64``.

    >>> argument_text({"learning_rate": 0.01, "width": 64})
    'learning_rate=0.01,width=64'
    """
    return ",".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
    )
