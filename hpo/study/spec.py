"""The models of the study file, which check it before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from optuna.distributions import BaseDistribution
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from hpo.core.text import cut, unquoted
from hpo.problems.base import RECORDABLE, is_recordable
from hpo.problems.command import NAME as COMMAND
from hpo.study.spec_fields import (
    Average,
    Baseline,
    ByTask,
    Cohort,
    Method,
    Number,
    Point,
    Range,
    Recipe,
    Reference,
    References,
    Sampler,
    Tuned,
    Whole,
    any_once,
    each_once,
    json_value,
    one_of,
)
from hpo.training.methods import WITHOUT_RATE
from search_spaces import DESIGNS, AlphaSpace, argument_space

MOST_TRIALS = 10_000  # of a search: each trains a network
MOST_SEEDS = 1000
MOST_WORKERS = 4096  # processes of a trial
NEEDED_BY = {  # phases that may be off, and the keys of other parts that need them
    "static": ("a static search", ("search.full", "search.halving", "confirm.top_static")),
    "gradnorm": ("an alpha sweep", ("confirm.averages",)),
    "shortlist": ("a shortlist", ("confirm.shortlist",)),
}
FIRST_STEP = "first_step"  # a center of the static search
CENTERS = (FIRST_STEP, "equal")

# MLflow's first experiment keeps its files outside the output folder, which keeps its own under the other names.
TAKEN = ("default", "artifacts", "mlflow.db", "mlflow.db-journal", "mlflow.db-shm", "mlflow.db-wal")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ProblemSpec(BaseModel):
    """A problem by name; every other key is an argument of its class."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)
    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(json_value)]] = Field(init=False)
    name: str = Field(min_length=1, max_length=200)
    """Registered name of a problem (`gradsweep problems` lists them), or `package.module:Class`. A mapping with a
    `command` needs none."""

    @model_validator(mode="after")
    def _recordable(self) -> Self:
        for key in self.model_extra or {}:
            if not is_recordable(key):
                raise ValueError(f"unusable argument {cut(repr(key))}, allowed: {RECORDABLE}")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of the class."""
        return dict(self.model_extra or {})


class StaticSpec(BaseModel):
    """The static search: a design with its options, or explicit points, which the file gives as a list."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    __pydantic_extra__: dict[str, Number] = Field(init=False)
    design: str = "log_lattice"
    """How the points are chosen: `log_lattice`, `sobol`, `dirichlet` or `uniform`."""
    points: Annotated[Whole, Field(ge=1, le=MOST_TRIALS)] = 24
    """Number of points. Equal weights are always among them."""
    center: Annotated[str | None, one_of(CENTERS)] = None
    """Middle of a design with a `ratio`: `first_step` (between both kinds of first-step weights, and as wide as they
    ask for) or `equal` weights. Default: `equal` where the file gives a `ratio`, else `first_step`."""
    explicit: tuple[Point, ...] = ()
    """Your own points. In the file, write the list directly under `static`, in place of the mapping."""

    @field_validator("design")
    @classmethod
    def _known(cls, design: str) -> str:
        if design not in DESIGNS:
            raise ValueError(f"{', '.join(DESIGNS)}, or a list of points of weights in place of the mapping")
        return design

    @model_validator(mode="after")
    def _one_region(self) -> Self:
        if self.center == FIRST_STEP and "ratio" in self.options:
            raise ValueError("no ratio with center: first_step, which finds it too")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options of the design besides the number of points and the center."""
        return dict(self.model_extra or {})

    @property
    def from_first_step(self) -> bool:
        """Return whether the points are known only once the first-step weights are."""
        if self.explicit or not DESIGNS[self.design].centered:
            return False
        return self.center == FIRST_STEP or (self.center is None and "ratio" not in self.options)


class GradNormSpec(_Strict):
    """The alpha sweep: for each recipe a number of trials over the range of alpha.

    The defaults follow docs/results.md: the paper's recipe for comparison, the recipe that did best, and the range of
    alpha that did no harm.
    """

    recipes: Annotated[tuple[Recipe, ...], BeforeValidator(each_once)] = ("paper", "direct")
    """GradNorm recipes to compare, each once."""
    alpha: Range = (0.0, 1.5)
    """Range of alpha: `[lowest, highest]`, 0 <= lowest <= highest."""
    learning_rate: Range | None = None
    """Range of the learning rate of the weights: `[lowest, highest]`, both > 0. By default it is not searched."""
    trials: Annotated[Whole, Field(ge=1, le=MOST_TRIALS)] = 6
    """Number of trials per recipe."""

    def ranges(self, recipe: str) -> dict[str, tuple[float, float]]:
        """Return the range of each parameter that the sweep of a recipe searches."""
        rate = None if recipe in WITHOUT_RATE else self.learning_rate
        return {"alpha": self.alpha} | ({"learning_rate": rate} if rate else {})

    def space(self, recipe: str, arguments: tuple[str, ...] = ()) -> AlphaSpace:
        """Return the same as a search space for Optuna, with the labels of the sets of arguments to choose from."""
        return AlphaSpace(*self.alpha, learning_rate=self.ranges(recipe).get("learning_rate"), arguments=arguments)

    @field_validator("alpha")
    @classmethod
    def _alpha(cls, alpha: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= alpha[0] <= alpha[1]:
            raise ValueError("[lowest, highest] with 0 <= lowest <= highest")
        return alpha

    @field_validator("learning_rate")
    @classmethod
    def _learning_rate(cls, rate: tuple[float, float] | None) -> tuple[float, float] | None:
        if rate is not None and not 0 < rate[0] <= rate[1]:
            raise ValueError("[lowest, highest] with 0 < lowest <= highest")
        return rate


class ShortlistSpec(_Strict):
    """Arms that need no search: a GradNorm run per alpha, its E_t[w], first-step and equal weights, the baseline."""

    recipes: Annotated[tuple[Recipe, ...], BeforeValidator(each_once)] = ("direct",)
    """GradNorm recipes, each once."""
    alphas: Annotated[tuple[Annotated[Number, Field(ge=0)], ...], BeforeValidator(each_once)] = (0.0, 0.5)
    """The alphas of the GradNorm runs, each once."""
    averages: Annotated[tuple[Average, ...], BeforeValidator(each_once)] = ("geometric", "tail")
    """Averages of the weights of these runs to train with as fixed weights."""
    methods: Annotated[tuple[Method, ...], BeforeValidator(any_once)] = ()
    """Other methods that take part, beside those among `references`."""
    seeds: Annotated[Whole, Field(ge=1, le=100)] = 3
    """Seeds of the race in all: close arms are trained on a second seed, the closest on further ones."""


class RefineSpec(_Strict):
    """Bayesian optimisation of fixed weights around the best ones that the phases before it have found."""

    trials: Annotated[Whole, Field(ge=4, le=MOST_TRIALS)] = 16
    """Maximum number of points. Two batches of four without a better score end the search early."""
    sampler: Sampler = "gp"
    """How points are proposed: `gp` (Gaussian process; `auto` means it too), `tpe`, `random`, or your own as
    `package.module:name`."""
    span: Annotated[Number, Field(gt=1, le=1e6)] = 8.0
    """Factor by which a log-ratio of weights may move away from the start, in either direction."""


class ConfirmSpec(_Strict):
    """The arms of the confirm phase: the number of static points, the averages for E_t[w], arms of the shortlist."""

    top_static: Annotated[Whole, Field(ge=1, le=MOST_TRIALS)] = 2
    """How many of the best static points are trained on the confirm seeds."""
    averages: Annotated[tuple[Average, ...], BeforeValidator(each_once)] = ("arithmetic", "geometric", "tail")
    """Averages of the GradNorm weights, E_t[w], to train with as fixed weights."""
    shortlist: Annotated[str, one_of(("chosen", "all"))] = "chosen"
    """Arms of the shortlist to train on the confirm seeds: the `chosen` ones, or `all`."""


class TuneSpec(BaseModel):
    """Arguments of the problem to search along with the weights; each key but `trials` and `seeds` is one, with its
    range.

    A range is `[lowest, highest]`, `{log: [lowest, highest]}` or `{choice: [value, value, ...]}`.
    """

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    __pydantic_extra__: dict[str, Tuned] = Field(init=False)
    trials: Annotated[Whole, Field(ge=2, le=1000)] = 5
    """How many combinations of values every arm and every single-task network is trained with, the problem's own
    among them."""
    seeds: Annotated[Whole, Field(ge=1, le=100)] = 1
    """Seeds on which each arm is trained with each combination, the search seed among them. Its best combination is
    that with the best mean."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The range of each argument, as the file gives it."""
        return dict(self.model_extra or {})

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """The same as distributions of Optuna."""
        return {name: argument_space(f"tune.{name}", given) for name, given in self.arguments.items()}


class SearchSpec(_Strict):
    """A cheaper search: shorter runs, points that are stopped early. By default every trial is trained to its end."""

    epochs: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    """Epochs of every trial of the search, where they are to be shorter than those of the confirm phase."""
    full: Annotated[Whole, Field(ge=0, le=MOST_TRIALS)] = 6
    """With `epochs`: how many static points are also trained to the end on the search seed."""
    halving: Annotated[Whole, Field(ge=2, le=MOST_TRIALS)] | None = None
    """Successive halving: one in so many static points continues at each rung. By default no point is stopped."""


class Resources(_Strict):
    """Resources of one trial, and its time limit in minutes."""

    workers: Annotated[Whole, Field(ge=1, le=MOST_WORKERS)] = 1
    """Processes that train a trial together, each with the `cpu` and `gpu` below. Trials of another number are other
    trials."""
    cpu: Annotated[Number, Field(gt=0)] = 1.0
    """CPU cores per process, and its number of torch threads."""
    gpu: Annotated[Number, Field(ge=0)] = 0.0
    """GPUs per process: a fraction below 1, or a whole number."""
    minutes: Annotated[Number, Field(gt=0)] | None = None
    """Time limit of each attempt at a trial. By default there is none."""

    @field_validator("gpu")
    @classmethod
    def _whole_or_fraction(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError("a fraction below 1, or a whole number")
        return gpu


def _problem(value: Any) -> Any:
    if not isinstance(value, str | Mapping | ProblemSpec):
        raise ValueError("a name, or a mapping of name and the problem's arguments")
    if isinstance(value, Mapping) and "command" in value and "name" not in value:
        return {"name": COMMAND, **value}
    return {"name": value} if isinstance(value, str) else value


def _is_off(value: Any) -> bool:
    """Return whether a phase is switched off; YAML reads ``off`` as false."""
    return value is False or value == "off"


def _static(value: Any) -> Any:
    if _is_off(value):
        return None
    if isinstance(value, list | tuple) and value:
        return {"explicit": value}
    if not isinstance(value, Mapping | StaticSpec):
        raise ValueError("a mapping of design, points and options, a list of at least one point, or off")
    if isinstance(value, Mapping):
        design = value.get("design", "log_lattice")
        known = DESIGNS.get(design) if isinstance(design, str) else None
        options = [*known.options, *(["center"] if known.centered else [])] if known else []
        allowed = ["design", "points", *options]
        if known and (unknown := [unquoted(key) for key in value if key not in allowed]):
            raise ValueError(f"unknown key {cut(', '.join(unknown))}, allowed with {design}: {', '.join(allowed)}")
    return value


def _or_off(spec: type[BaseModel]) -> BeforeValidator:
    """A part of the study that can be switched off."""

    def check(value: Any) -> Any:
        if _is_off(value):
            return None
        if not isinstance(value, Mapping | spec):
            raise ValueError("a mapping, or off")
        return value

    return BeforeValidator(check)


def _gives(study: Study, key: str) -> bool:
    """Return whether a study file gives a key of one of its parts."""
    part, _, name = key.partition(".")
    return name in getattr(study, part).model_fields_set


class Study(_Strict):
    """A whole comparison: arms times seeds on one problem."""

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=80)
    """Name of the study: of the MLflow experiment and of the output folder."""
    problem: Annotated[ProblemSpec, BeforeValidator(_problem)]
    """The problem to train. A text is short for `{name: ...}`."""
    seed: Annotated[Whole, Field(ge=0, lt=2**31)] = 0
    """Seed of the search. The confirm phase uses the seeds after it."""
    seeds: Annotated[Whole, Field(ge=1, le=MOST_SEEDS)] = 3
    """Number of confirm seeds, paired: every arm starts from the same network and sees the same batches."""
    epochs: Annotated[Whole, Field(ge=1, lt=2**31)] | None = None
    """Epochs per trial. Default: those of the problem."""
    select: Annotated[str, one_of(("last", "best"))] = "last"
    """The epoch of each trial whose metrics count: the `last`, or the `best` on validation."""
    baseline: Baseline | None = None
    """The weights that you train with today, `equal` or `{task: weight, ...}`, to compare with."""
    references: References = ("single_task", "equal", "uncertainty")
    """Methods to compare with. `single_task` must be among them: every score is relative to it."""
    shortlist: Annotated[ShortlistSpec | None, _or_off(ShortlistSpec)] = ShortlistSpec()
    """Arms that need no search, for an answer within a few runs, or `off`."""
    static: Annotated[StaticSpec | None, BeforeValidator(_static)] = StaticSpec()
    """The static search: which fixed weights are tried. `off`: none, and arms are compared with the baseline."""
    tune: Annotated[TuneSpec | None, _or_off(TuneSpec)] = None
    """Arguments of the problem, such as its learning rate, to search along with the weights. By default it is off."""
    search: SearchSpec = SearchSpec()
    """A cheaper search."""
    refine: Annotated[RefineSpec | None, _or_off(RefineSpec)] = None
    """A search by Bayesian optimisation around the best fixed weights so far. By default it is off."""
    gradnorm: Annotated[GradNormSpec | None, _or_off(GradNormSpec)] = GradNormSpec()
    """The alpha sweep of GradNorm, or `off`."""
    confirm: ConfirmSpec = ConfirmSpec()
    """The confirm phase, on fresh seeds and the test split."""
    resources: Resources = Resources()
    """Resources per trial."""
    cohort: Cohort = "auto"
    """How many trials of one seed are trained at once: `auto`, or a number from 1 (one at a time) to 1024."""
    checkpoint_seconds: Annotated[Number, Field(ge=0)] = 60.0
    """Seconds of training between two checkpoints of a trial."""
    priorities: ByTask = Field(default_factory=dict)
    """How much each task counts in the score, `{task: number, ...}`. A task left out counts 1, an auxiliary one 0."""
    limits: ByTask = Field(default_factory=dict)
    """`{task: percent, ...}`: how far it may be behind its single-task network in weights that are recommended."""
    margin: Annotated[Number, Field(gt=0)] = 1.0
    """Regret, in percent of score, that counts as equivalent."""

    @field_validator("name")
    @classmethod
    def _free(cls, name: str) -> str:
        if name.casefold() in TAKEN:
            raise ValueError(f"any but {', '.join(TAKEN)}, which MLflow and the output folder have taken")
        return name

    @field_validator("references")
    @classmethod
    def _has_single_task(cls, references: tuple[Reference, ...]) -> tuple[Reference, ...]:
        if "single_task" not in references:
            raise ValueError("a list with single_task, to which every score is relative")
        return references

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for phase, (what, keys) in NEEDED_BY.items():
            given = [key for key in keys if getattr(self, phase) is None and _gives(self, key)]
            if given:
                need = "needs" if len(given) == 1 else "need"
                raise ValueError(f"{phase}: expected {what}, which {' and '.join(given)} {need}, got off")
        if self.limits and self.seeds < 2:
            raise ValueError(f"seeds: expected a number >= 2, which limits need for confidence, got {self.seeds}")
        self._check_workers()
        self._check_tuned()
        if self.static is None and self.shortlist is None:
            if self.gradnorm is None:
                raise ValueError("shortlist: expected a shortlist, a static search or an alpha sweep, got none")
            if self.refine is not None:
                start = "a shortlist or a static search, around whose best weights it searches"
                raise ValueError(f"refine: expected {start}, got none")
        return self

    def _check_workers(self) -> None:
        workers, gpu = self.resources.workers, self.resources.gpu
        if workers > 1 and self.problem.name == COMMAND:
            rule = "1 with a command, which is a process of its own"
            raise ValueError(f"resources.workers: expected {rule}, got {workers}")
        if workers > 1 and gpu != int(gpu):
            rule = "a whole number, since processes of one trial cannot share a GPU"
            raise ValueError(f"resources.gpu: expected {rule}, got {gpu:g}")

    def _check_tuned(self) -> None:
        if self.tune is None:
            return
        if not self.tune.arguments:
            raise ValueError("tune: expected at least one argument of the problem with its range, got none")
        if both := [name for name in self.tune.arguments if name in self.problem.arguments]:
            raise ValueError(
                f"tune.{both[0]}: expected an argument that problem does not set, got one with the value "
                f"{cut(repr(self.problem.arguments[both[0]]))} there"
            )
        few = [
            ("static.points", self.static.points if self.static and not self.static.explicit else None),
            ("gradnorm.trials", self.gradnorm.trials if self.gradnorm else None),
        ]
        for field, count in few:
            if count is not None and count < self.tune.trials:
                rule = f"a number >= tune.trials, which is {self.tune.trials}"
                raise ValueError(f"{field}: expected {rule}, got {count}")

    @property
    def recipes(self) -> tuple[str, ...]:
        """The GradNorm recipes whose alpha is swept."""
        return self.gradnorm.recipes if self.gradnorm else ()

    def race_seed(self, place: int) -> int:
        """The seed of a place in the shortlist's race, from 1; it lies beyond all confirm seeds there can be."""
        return self.seed + MOST_SEEDS + place

    @property
    def confirm_seeds(self) -> range:
        """The seeds of the confirm phase, which no search trial has used."""
        return range(self.seed + 1, self.seed + 1 + self.seeds)
