"""The study file: what the user writes, checked before anything runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
)

from hpo.methods import REFERENCES, missing_for
from search_spaces import DESIGNS, AlphaSpace


class StudyError(ValueError):
    """The study file cannot be used; the message is one line a fault."""


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("allowed: a number")
    return value


def _each_once(value: Any) -> Any:
    if not isinstance(value, list | tuple) or not value or any(value.count(one) > 1 for one in value):
        raise ValueError("allowed: a list of at least one, each once")
    return value


def _pair(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("allowed: a list [lowest, highest]")
    return value


def _point(value: Any) -> tuple[float, ...] | dict[str, float]:
    """A point of weights: a number for each task, in their order or by name."""
    named = isinstance(value, Mapping) and all(isinstance(task, str) for task in value)
    if named or isinstance(value, list | tuple):
        try:
            w = [float(_not_bool(number)) for number in (value.values() if named else value)]
        except (TypeError, ValueError):
            w = []
        if w and all(0 < number < math.inf for number in w):
            return dict(zip(value, w, strict=True)) if named else tuple(w)
    raise ValueError("allowed: a list of numbers > 0, one for each task, or a mapping from each task to its number")


def _json(value: Any) -> Any:
    """Arguments decide a trial's identity, which is a hash of JSON."""
    try:
        same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        same = False
    if not same:
        raise ValueError("allowed: text, finite numbers, true, false, null, and lists and mappings of them")
    return value


def _reference(value: Any) -> Any:
    allowed = ("single_task", *REFERENCES)
    if value not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}")
    if missing := missing_for(value):
        raise ValueError(f"allowed once torchjd is installed: {missing}")
    return value


Reference = Annotated[str, PlainValidator(_reference)]
Recipe = Literal["paper", "robust"]
Average = Literal["arithmetic", "geometric", "tail"]
References = Annotated[tuple[Reference, ...], BeforeValidator(_each_once)]
Whole = Annotated[int, Field(strict=True)]
Number = Annotated[float, BeforeValidator(_not_bool)]
Range = Annotated[tuple[Number, Number], BeforeValidator(_pair)]
Point = Annotated[tuple[float, ...] | Mapping[str, float], PlainValidator(_point)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ProblemSpec(BaseModel):
    """A problem by name; every other key is an argument of its class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_json)]] = Field(init=False)
    name: str = Field(min_length=1)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is told."""
        return dict(self.model_extra or {})


class StaticSpec(BaseModel):
    """The static search: a design with its options, or explicit points, which the file gives as a list."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, Number] = Field(init=False)
    design: str = "log_lattice"
    points: Annotated[Whole, Field(ge=1)] = 24
    explicit: tuple[Point, ...] = ()

    @field_validator("design")
    @classmethod
    def _known(cls, design: str) -> str:
        if design not in DESIGNS:
            raise ValueError(f"allowed: {', '.join(DESIGNS)}, or a list of points of weights in place of the mapping")
        return design

    @property
    def options(self) -> dict[str, Any]:
        """What the design is told beside the number of points."""
        return dict(self.model_extra or {})


class GradNormSpec(_Strict):
    """The alpha sweep: for each recipe so many trials over the range of alpha."""

    recipes: Annotated[tuple[Recipe, ...], BeforeValidator(_each_once)] = ("paper", "robust")
    alpha: Range = (0.0, 3.0)
    learning_rate: Range | None = None
    trials: Annotated[Whole, Field(ge=1)] = 6

    @property
    def space(self) -> AlphaSpace:
        """What Optuna searches."""
        return AlphaSpace(*self.alpha, learning_rate=self.learning_rate)

    @field_validator("alpha")
    @classmethod
    def _alpha(cls, alpha: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= alpha[0] <= alpha[1]:
            raise ValueError("allowed: [lowest, highest] with 0 <= lowest <= highest")
        return alpha

    @field_validator("learning_rate")
    @classmethod
    def _learning_rate(cls, rate: tuple[float, float] | None) -> tuple[float, float] | None:
        if rate is not None and not 0 < rate[0] <= rate[1]:
            raise ValueError("allowed: [lowest, highest] with 0 < lowest <= highest")
        return rate


class ConfirmSpec(_Strict):
    """What goes to fresh seeds: so many static points, and E_t[w] by these averages."""

    top_static: Annotated[Whole, Field(ge=1)] = 2
    averages: Annotated[tuple[Average, ...], BeforeValidator(_each_once)] = ("arithmetic", "geometric", "tail")


class Resources(_Strict):
    """What one trial needs."""

    cpu: Annotated[Number, Field(gt=0)] = 1.0
    gpu: Annotated[Number, Field(ge=0)] = 0.0

    @field_validator("gpu")
    @classmethod
    def _whole_or_fraction(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError("allowed: a fraction below 1, or a whole number")
        return gpu


def _problem(value: Any) -> Any:
    if not isinstance(value, str | Mapping | ProblemSpec):
        raise ValueError("allowed: a name, or a mapping of name and the problem's arguments")
    return {"name": value} if isinstance(value, str) else value


def _static(value: Any) -> Any:
    if isinstance(value, list | tuple) and value:
        return {"explicit": value}
    if not isinstance(value, Mapping | StaticSpec):
        raise ValueError("allowed: a mapping of design, points and options, or a list of at least one point")
    if isinstance(value, Mapping):
        design = value.get("design", "log_lattice")
        known = DESIGNS.get(design) if isinstance(design, str) else None
        allowed = ["design", "points", *(list(signature(known).parameters)[3:] if known else [])]  # after the seed
        if known and (unknown := [str(key) for key in value if key not in allowed]):
            raise ValueError(f"unknown key {', '.join(unknown)}, allowed with {design}: {', '.join(allowed)}")
    return value


class Study(_Strict):
    """A whole comparison: arms times seeds on one problem."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=80)
    problem: Annotated[ProblemSpec, BeforeValidator(_problem)]
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    seeds: Annotated[Whole, Field(ge=1, le=1000)] = 3
    epochs: Annotated[Whole, Field(ge=1)] | None = None
    references: References = ("single_task", "equal", "uncertainty")
    static: Annotated[StaticSpec, BeforeValidator(_static)] = StaticSpec()
    gradnorm: GradNormSpec = GradNormSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    resources: Resources = Resources()
    margin: Annotated[Number, Field(gt=0)] = 1.0

    @field_validator("references")
    @classmethod
    def _has_single_task(cls, references: tuple[Reference, ...]) -> tuple[Reference, ...]:
        if "single_task" not in references:
            raise ValueError("allowed: a list with single_task, to which every score is relative")
        return references

    @property
    def confirm_seeds(self) -> range:
        """Seeds that no search trial has used."""
        return range(self.seed + 1, self.seed + 1 + self.seeds)


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: no such file, not YAML, or a field that is not allowed; one line for each fault.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise StudyError(f"{path}: is not YAML: {where}{error.problem}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: found {_found(content)}, allowed: a mapping with at least name and problem")
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError("\n".join(_line(path, fault) for fault in error.errors())) from None


_ALLOWED = {
    "greater_than_equal": "a number >= {ge}",
    "greater_than": "a number > {gt}",
    "less_than_equal": "a number <= {le}",
    "less_than": "a number < {lt}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "letters, digits, '_', '-' and '.', the first a letter, a digit or '_'",
    "string_too_short": "a name",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "model_type": "a mapping",
    "dict_type": "a mapping",
}


def _line(path: Path, fault: Any) -> str:
    """One fault: the file, the field, what was found, what is allowed."""
    location = [part for part in fault["loc"] if part != "explicit"]  # the file has the list right below static
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    kind, found = fault["type"], _found(fault["input"])
    if kind in ("extra_forbidden", "invalid_key"):
        return f"{path}: {field}: unknown key, allowed here: {', '.join(_fields(fault['loc'][:-1]))}"
    if kind == "missing":
        required = [name for name, info in _fields(fault["loc"][:-1]).items() if info.is_required()]
        return f"{path}: {field}: missing, required here: {', '.join(required)}"
    if kind == "value_error":
        text = str(fault["ctx"]["error"])
        return f"{path}: {field}: " + (text if text.startswith("unknown key") else f"found {found}, {text}")
    limits = {name: f"{x:g}" if isinstance(x, float) else x for name, x in fault.get("ctx", {}).items()}
    allowed = _ALLOWED[kind].format(**limits) if kind in _ALLOWED else fault["msg"]
    return f"{path}: {field}: found {found}, allowed: {allowed}"


def _found(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _fields(location: tuple[Any, ...]) -> dict[str, Any]:
    model: Any = Study
    for part in location:
        model = model.model_fields[part].annotation
    return dict(model.model_fields)
