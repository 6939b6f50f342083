"""Models of ``comparison.json``; docs/comparison.schema.json is their schema."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = "gradsweep.comparison"
VERSION = 1

Number = float | None
Weights = dict[str, Number]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")  # a reader of this version may meet fields of a later one


class Mean(_Part):
    """A mean over seeds with its 95% interval."""

    mean: Number
    low: Number = Field(description="lower end of the 95% interval, null below two seeds")
    high: Number
    seeds: int


class Task(_Part):
    """One task."""

    name: str
    metric: str
    direction: Literal["minimize", "maximize"]
    change: Literal["relative", "absolute"] | float = Field(
        "relative",
        description="its change is 100 (m - b) / s, s = |b| (relative), 1 (absolute), or this number",
    )
    priority: float = Field(1.0, description="how much it counts in the score")
    limit: Number = Field(None, description="percent it may be behind its single-task network in recommended weights")


class VerdictPart(_Part):
    """The verdict: the best GradNorm arm against the best static arm, chosen on validation, compared on test."""

    kind: Literal["better", "equivalent", "worse", "inconclusive", "none"]
    arm: str = Field(description="the best GradNorm arm; empty if there is none")
    static: str = Field(
        description="the best static arm; without a static search the baseline or equal weights; empty if none"
    )
    regret: Mean = Field(description="percentage points of score, corrected for selection; the verdict is on this")
    paired: Mean = Field(description="the difference of the two arms, not corrected")
    margin: float = Field(description="regret that counts as equivalent")
    seeds_needed: int = Field(description="for an inconclusive verdict; 0: more than 1000, or not inconclusive")
    reason: str = Field(description="the reason why there is no verdict")
    sentences: list[str]


class Recommended(_Part):
    """The arm with the best fixed weights."""

    arm: str
    weights: Weights
    misses: list[str] = Field([], description="tasks whose limits it misses, where no fixed weights keep all limits")


class BaselinePart(_Part):
    """The weights that the user trains with today."""

    arm: str
    gain: Mean = Field(description="test score of the baseline minus that of the recommended arm; above 0: better")


class ShortlistArm(_Part):
    """An arm that needs no search, on validation."""

    arm: str
    kind: str
    seeds: int = Field(description="seeds of the race that it was trained on")
    score: Number = Field(description="mean over its seeds, relative to the search seed's single-task networks")
    chosen: bool = Field(description="true for the best arm with fixed weights")
    weights: Weights


class WinnerPart(_Part):
    """The best arm of all, fixed weights or not, chosen on validation."""

    arm: str
    exportable: bool = Field(description="true if its weights are fixed, so that a weights file can hold them")
    gain: Mean = Field(
        description="test score of the recommended arm minus its own, paired by seed, above 0 where it is better; "
        "not corrected for selection; null if it is the recommended arm"
    )
    words: str = Field(description="who won, where no weights file can hold it; else empty")
    code: str = Field(
        description="the Python expression that makes its balancer, where no weights file can hold it; else empty"
    )


class Arm(_Part):
    """All confirm trials that differ only in seed. Scores: percent against single-task networks, lower is better."""

    arm: str
    label: str
    kind: str
    recipe: str
    alpha: Number
    seeds: int
    weights: Weights = Field(
        description="for fixed weights those, else E_t[w] (geometric), geometric mean over seeds"
    )
    score_validation: Number
    score_test: Mean
    regret: Mean = Field(description="against the best static arm, paired by seed, not corrected for selection")
    verdict: str = Field(description="on that regret; empty for the best static arm and for single-task networks")
    recommended: bool
    misses: list[str] = Field([], description="tasks whose limits it misses on validation")
    best_static: bool
    chosen: Number = Field(description="share of resamples of the seeds in which it is the best of its side")
    gap: Number = Field(description="difference between test and training data, percentage points")
    dominated_by: str = Field(description="an arm at least as good on every task, better on one; empty on the front")
    steps: Number
    seconds: Number
    metrics: dict[str, dict[str, Number]] = Field(description="by split (train, val, test) and task, mean over seeds")


class DistancePart(_Part):
    """Distance of E_t[w] to the best static weights."""

    recipe: str
    average: str
    alpha: Number
    weights: Weights
    aitchison: Number
    l2: Number
    factor: Number
    nearest: str = Field(description="the nearest static point that is not distinguishable from the best one")
    region_aitchison: Number = Field(description="distance to that point")
    region_l2: Number
    region_factor: Number
    known_aitchison: Number = Field(
        default=None, description="distance to the weights that are best by the problem's making; null on real data"
    )
    known_l2: Number = None
    known_factor: Number = None


class Rank(_Part):
    """Rank of a recipe's best run among the static points, on the search seed's validation."""

    recipe: str
    alpha: Number
    score: Number
    rank: int
    points: int
    better: Number = Field(description="share of random points that are better; null if the design is not random")
    better_low: Number
    better_high: Number
    rank_low: Number = Field(description="95% of the ranks under the noise of seeds; null if the design is random")
    rank_high: Number


class BestOf(_Part):
    """Expected best score of k static points."""

    k: int
    expected: Number
    low: Number
    high: Number


class Match(_Part):
    """Number of static points that match the best run of a recipe's sweep, and their cost relative to it."""

    recipe: str
    score: Number
    k: int
    k_low: int
    k_high: int
    beyond: bool = Field(description="not even all n points match; then k and k_high are n, meaning more")
    steps_sweep: Number = Field(description="steps of k static trials, times the steps of the alpha sweep")
    steps_sweep_low: Number
    steps_run: Number = Field(description="the same, times the steps of one run")
    steps_run_low: Number
    seconds_sweep: Number
    seconds_sweep_low: Number
    seconds_run: Number
    seconds_run_low: Number


class SurfacePart(_Part):
    """The quadratic response surface over log-ratios of the weights."""

    identified: bool
    located: bool
    reason: str
    r2: Number = Field(description="leave-one-out R squared")
    optimum: Weights
    score: Number


class Correlation(_Part):
    """The paper's Figure 4 as a number."""

    recipe: str
    distance: Literal["aitchison", "l2"]
    rho: Number
    percentile: Number = Field(description="among 200 random points of the searched region")
    null_low: Number
    null_high: Number
    points: int


class Cost(_Part):
    """Cost of a way to find weights, on the search seed."""

    way: str
    trials: int
    steps: Number
    seconds: Number
    steps_ratio: Number = Field(description="times the static search")
    seconds_ratio: Number


class ArgumentSet(_Part):
    """Values of the arguments of the problem that the study tunes."""

    label: str = Field(description="the end of an arm's name, after @; empty for the problem's own values")
    values: dict[str, str | bool | int | float]


class TunedArm(_Part):
    """An arm with one set of arguments."""

    arm: str
    kind: str
    arguments: str = Field(description="label of the set")
    score: Number = Field(description="validation, mean over the seeds")
    best: bool = Field(description="true for the best set of the arm")
    seeds: int = Field(default=1, description="seeds with this set, the search seed among them")
    low: Number = Field(default=None, description="lowest score on these seeds")
    high: Number = Field(default=None, description="highest score on these seeds")


class CommonVerdict(_Part):
    """The verdict where every arm has the problem's own arguments."""

    kind: Literal["better", "equivalent", "worse", "inconclusive", "none"]
    arm: str
    static: str
    regret: Mean


class TuningPart(_Part):
    """Arguments of the problem that were tuned for every arm."""

    sets: list[ArgumentSet]
    scores: list[TunedArm]
    gains: dict[str, Mean] = Field(
        description="by arm: test score with the problem's own arguments minus that with its best ones"
    )
    common: CommonVerdict


class Document(_Part):
    """The whole comparison."""

    schema_: Literal["gradsweep.comparison"] = Field(alias="schema")
    version: Literal[1]
    study: str
    tasks: list[Task]
    verdict: VerdictPart
    recommended: Recommended | None
    winner: WinnerPart | None = Field(default=None, description="null if no arm has a score, or in older documents")
    alarms: list[str]
    arms: list[Arm]
    distances: list[DistancePart]
    region: list[str] = Field(description="static points not distinguishable from the best one")
    noise: Number = Field(description="standard deviation of a validation score from seed to seed")
    surface: SurfacePart
    ranks: list[Rank]
    best_of_k: list[BestOf]
    budget: list[Match]
    figure4: list[Correlation]
    agreement: Number = Field(description="Spearman's rho of the arms' validation and test scores")
    cost: list[Cost]
    searched: bool = Field(True, description="true if the study has a static search")
    baseline: BaselinePart | None = None
    shortlist: list[ShortlistArm] = Field([], description="those on the most seeds first; empty without a shortlist")
    best_epochs: tuple[int, int] | None = Field(
        None, description="earliest and latest best epoch of a confirm trial; null if the last epoch counts"
    )
    tuning: TuningPart | None = Field(None, description="null if the study tunes no arguments")
    provenance: dict[str, str]


def schema_text() -> str:
    """Return the schema as JSON text."""
    return json.dumps(Document.model_json_schema(), indent=2) + "\n"
