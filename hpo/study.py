"""The study file: what the user writes, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from search_spaces import DESIGNS, AlphaSpace

Reference = Literal["single_task", "equal", "uncertainty"]
Recipe = Literal["paper", "robust"]
Average = Literal["arithmetic", "geometric", "tail"]


class StudyError(ValueError):
    """The study file cannot be used; the message is one line a fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ProblemSpec(BaseModel):
    """A problem by name; every other key is an argument of its class."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field(min_length=1)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the class is told."""
        return dict(self.model_extra or {})


class StaticSpec(BaseModel):
    """The static search: a design with its options, or explicit points."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    design: str = "log_lattice"
    points: Annotated[int, Field(ge=1)] = 24
    explicit: tuple[tuple[float, ...] | Mapping[str, float], ...] = ()

    @field_validator("design")
    @classmethod
    def _known(cls, design: str) -> str:
        if design not in DESIGNS:
            raise ValueError(f"allowed: {', '.join(DESIGNS)}, or a list of weight points in place of the mapping")
        return design

    @property
    def options(self) -> dict[str, Any]:
        """What the design is told beside the number of points."""
        return dict(self.model_extra or {})


class GradNormSpec(_Strict):
    """The alpha sweep: for each recipe so many trials over the range of alpha."""

    recipes: Annotated[tuple[Recipe, ...], Field(min_length=1)] = ("paper", "robust")
    alpha: tuple[float, float] = (0.0, 3.0)
    learning_rate: tuple[float, float] | None = None
    trials: Annotated[int, Field(ge=1)] = 6

    @property
    def space(self) -> AlphaSpace:
        """What Optuna searches."""
        return AlphaSpace(*self.alpha, learning_rate=self.learning_rate)

    @model_validator(mode="after")
    def _range(self) -> Self:
        _ = self.space  # its ValueError names the parameter, the find and the rule
        return self


class ConfirmSpec(_Strict):
    """What goes to fresh seeds: so many static points, and E_t[w] by these averages."""

    top_static: Annotated[int, Field(ge=1)] = 2
    averages: Annotated[tuple[Average, ...], Field(min_length=1)] = ("arithmetic", "geometric", "tail")


class Resources(_Strict):
    """What one trial needs."""

    cpu: Annotated[float, Field(gt=0)] = 1.0
    gpu: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("gpu")
    @classmethod
    def _whole_or_fraction(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError("allowed: a fraction below 1, or a whole number")
        return gpu


def _problem(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _static(value: Any) -> Any:
    return {"explicit": value, "points": len(value) or 0} if isinstance(value, list | tuple) else value


class Study(_Strict):
    """A whole comparison: arms times seeds on one problem."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=80)
    problem: Annotated[ProblemSpec, BeforeValidator(_problem)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    epochs: Annotated[int, Field(ge=1)] | None = None
    references: Annotated[tuple[Reference, ...], Field(min_length=1)] = ("single_task", "equal", "uncertainty")
    static: Annotated[StaticSpec, BeforeValidator(_static)] = StaticSpec()
    gradnorm: GradNormSpec = GradNormSpec()
    confirm: ConfirmSpec = ConfirmSpec()
    resources: Resources = Resources()
    margin: Annotated[float, Field(gt=0)] = 1.0

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
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise StudyError(f"{path}: found {type(content).__name__}, allowed: a mapping with at least name and problem")
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
    "too_short": "a list of at least {min_length}",
    "string_pattern_mismatch": "letters, digits, '_', '-' and '.', the first a letter, a digit or '_'",
    "string_too_short": "a name",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a text",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
}


def _line(path: Path, fault: Any) -> str:
    """One fault: the file, the field, what was found, what is allowed."""
    field = ".".join(str(part) for part in fault["loc"]) or "study"
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{path}: {field}: unknown key, allowed here: {', '.join(_keys(fault['loc'][:-1]))}"
    if kind == "missing":
        return f"{path}: {field}: missing"
    if kind == "value_error":
        text = str(context["error"])
        return f"{path}: {field}: found {fault['input']!r}, {text}"
    allowed = _ALLOWED[kind].format(**context) if kind in _ALLOWED else fault["msg"]
    return f"{path}: {field}: found {fault['input']!r}, allowed: {allowed}"


def _keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = Study
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
