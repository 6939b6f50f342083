"""The types of fields of a study file, with the words that say what is allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from hpo.core.trial import AVERAGES
from hpo.problems.registry import search_current_folder
from hpo.training.methods import METHODS, RECIPES, reference_names
from search_spaces import argument_space, sampler_fault

MOST_TOGETHER = 1024


def not_bool(value: Any) -> Any:
    """Refuse true and false, which Python takes for numbers."""
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def each_once(value: Any) -> Any:
    """Require a list of at least one value, each once."""
    if not isinstance(value, list | tuple) or not value or len({repr(one) for one in value}) < len(value):
        raise ValueError("a list of at least one, each once")
    return value


def any_once(value: Any) -> Any:
    """Require a list of values, each once, or an empty one."""
    if not isinstance(value, list | tuple) or len({repr(one) for one in value}) < len(value):
        raise ValueError("a list, each once")
    return value


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("a list [lowest, highest]")
    return value


def _cohort(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_TOGETHER):
        return value
    raise ValueError(f"auto, or a whole number from 1 (one at a time) to {MOST_TOGETHER}")


def _point(value: Any) -> tuple[float, ...] | dict[str, float]:
    """Check a point of weights: a number for each task, in their order or by name."""
    named = isinstance(value, Mapping) and all(isinstance(task, str) for task in value)
    if named or isinstance(value, list | tuple):
        try:
            w = [float(not_bool(number)) for number in (value.values() if named else value)]
        except (OverflowError, TypeError, ValueError):
            w = []
        if w and all(0 < number < math.inf for number in w):
            return dict(zip(value, w, strict=True)) if named else tuple(w)
    raise ValueError("a list of numbers > 0, one for each task, or a mapping from each task to its number")


def _baseline(value: Any) -> Any:
    """The weights of today: `equal`, or a number for each task by name."""
    if value == "equal":
        return value
    try:
        point = _point(value)
    except ValueError:
        point = ()
    if not isinstance(point, dict):
        raise ValueError("equal, or a mapping from each task to a number > 0")
    return point


def _by_task(value: Any) -> dict[str, float]:
    """Check a finite number >= 0 for each of some tasks."""
    if isinstance(value, Mapping) and all(isinstance(task, str) for task in value):
        with suppress(OverflowError, TypeError, ValueError):
            found = {task: float(not_bool(number)) for task, number in value.items()}
            if all(0 <= number < math.inf for number in found.values()):
                return found
    raise ValueError("a mapping from tasks to finite numbers >= 0")


def json_value(value: Any) -> Any:
    """Check that arguments are JSON, of which a trial's identity is a hash."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError("text, finite numbers, true, false, null, and lists and mappings of them")
    return value


def _reference(value: Any) -> Any:
    return value if value == "single_task" else _method(value, "single_task")


def _method(value: Any, *others: str) -> Any:
    """Check the name of a method that a study may compare with, and that it is installed."""
    allowed = (*others, *reference_names())
    if value not in reference_names():
        raise ValueError(f"{', '.join(allowed)}")
    if missing := METHODS[value].missing():
        raise ValueError(f"a method that is installed; this one is by: {missing}")
    return value


def one_of(allowed: Collection[str]) -> PlainValidator:
    """Require one of these names."""

    def check(value: Any) -> Any:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{', '.join(allowed)}")
        return value

    return PlainValidator(check)


def tuned_values(value: Any) -> Any:
    """Check the range or the choices of an argument."""
    try:
        argument_space("", value)
    except ValueError as error:
        rule = str(error).removeprefix(": expected ").rpartition(", got ")[0]
        raise ValueError(rule) from None
    return value


def _sampler(value: str) -> str:
    """A sampler of the refinement: ours by name, or one of the user's by its place."""
    if ":" in value:
        search_current_folder()
    if rule := sampler_fault(value):
        raise ValueError(rule)
    return value


Reference = Annotated[str, PlainValidator(_reference)]
Method = Annotated[str, PlainValidator(_method)]
Recipe = Annotated[str, one_of(RECIPES)]
Sampler = Annotated[str, Field(strict=True), AfterValidator(_sampler)]
Average = Annotated[str, one_of(AVERAGES)]
References = Annotated[tuple[Reference, ...], BeforeValidator(each_once)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(not_bool)]
Range = Annotated[tuple[Number, Number], BeforeValidator(_pair)]
Cohort = Annotated[int | Literal["auto"], PlainValidator(_cohort)]
ByTask = Annotated[Mapping[str, float], PlainValidator(_by_task)]
Point = Annotated[tuple[float, ...] | Mapping[str, float], PlainValidator(_point)]
Tuned = Annotated[Any, AfterValidator(tuned_values)]
Baseline = Annotated[Literal["equal"] | Mapping[str, float], PlainValidator(_baseline)]
