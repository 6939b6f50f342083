"""Alarms: what a reader must know before he believes the rest, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from hpo.compare.arms_table import better_on_test
from hpo.compare.flatness import flat_optimum
from hpo.compare.scores import on_search_seed, reference_metrics
from hpo.compare.searched_region import SearchedRegion, direction_words
from hpo.compare.shortened_search import cheaper_search
from hpo.compare.trial_table import Vector, best_runs, static_points, weight_columns, weights_of
from hpo.core.arm import FIXED, REFERENCE
from hpo.core.trial import TrialStatus

FEW_SEEDS = 3


def alarms(
    trials: pd.DataFrame,
    search: pd.DataFrame,
    confirm: pd.DataFrame,
    arms: pd.DataFrame,
    equals: pd.DataFrame,
    directions: Mapping[str, int],
) -> Iterator[str]:
    """All alarms of a study, the gravest first.

    Args:
        trials: all of them.
        search: the scored trials of the search seed.
        confirm: the scored trials of the confirm seeds.
        arms: the table of arms.
        equals: the static points not distinguishable from the best one.
        directions: for each task +1 (minimize) or -1 (maximize).
    """
    tasks = tuple(directions)
    for status in (TrialStatus.DIVERGED, TrialStatus.FAILED):
        if (trials["status"] == status).any():
            yield f"{_trials(trials[trials['status'] == status])} {status}"
    for phase, table, split in (
        ("search", on_search_seed(trials), "val"),
        ("confirm", confirm, "test"),
    ):
        reference = reference_metrics(table, tasks, split)
        yield from _references(phase, reference) if len(table) else ()
        yield from _near_zero(phase, table, reference, directions, split)
    if len(arms) and arms["seeds"].max() < FEW_SEEDS:
        yield f"only {arms['seeds'].max()} seed(s): no interval is worth much below {FEW_SEEDS}"
    steps = confirm["steps"].unique()
    if len(steps) > 1:
        yield f"arms took unequal numbers of steps: {sorted(int(s) for s in steps)}"
    yield from cheaper_search(search)
    yield from _disagreement(arms, confirm)
    if len(arms) and arms["seeds"].max() >= FEW_SEEDS:  # below, the noise that the points are judged by is a guess
        yield from flat_optimum(search, equals, arms, tasks)
    yield from _edge(search, equals, arms, tasks)
    yield from _told(trials)


def kind_of(alarm: str) -> str:
    """An alarm without its numbers, names like "f1" kept: many trials may tell the same with other figures."""
    return re.sub(r"(?<![\w.-])\d[\d.,]*(?!\w)", "", alarm)


def _references(phase: str, reference: pd.Series) -> Iterator[str]:
    for task, value in reference.items():
        if value == 0 or not np.isfinite(value):
            yield (
                f"{phase} seeds: the single-task reference of {task} "
                f"{'is 0' if value == 0 else 'did not finish'}, so the task is left out of every score there"
            )


def _near_zero(
    phase: str, table: pd.DataFrame, reference: pd.Series, directions: Mapping[str, int], split: str
) -> Iterator[str]:
    """References so near 0 that one task decides the score: the other trials have the other sign, or, where larger is
    better, more than twice as much. An error may be many times larger without being near 0."""
    scored = table[(table["kind"] != REFERENCE) & (table["status"] == TrialStatus.FINISHED)]
    for task, direction in directions.items():
        value, others = reference[task], scored[f"{split}/{task}"].median() if len(scored) else np.nan
        if not np.isfinite(value) or not np.isfinite(others) or value == 0:
            continue
        if others / value < 0 or (direction < 0 and abs(others) > 2 * abs(value)):
            yield (
                f"{phase} seeds: the single-task reference of {task} is {value:.2g}, near 0 beside the {others:.2g} "
                "of other trials; the score divides by it, so that this task decides the score: measure the task by "
                "an error, or by another metric that is far from 0"
            )


def _disagreement(arms: pd.DataFrame, confirm: pd.DataFrame) -> Iterator[str]:
    recommended = next(iter(arms.loc[arms["recommended"], "arm"]), "")
    arm, gain = better_on_test(arms, confirm, FIXED, recommended) if recommended else ("", 0.0)
    if arm:
        yield (
            f"validation and test disagree on the order: validation chose {recommended}, and on test {arm} is better "
            f"by {-gain:.2g} percentage points, beyond what seeds explain; is the validation split like the test "
            "split, and large enough?"
        )


def _edge(search: pd.DataFrame, equals: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]) -> Iterator[str]:
    """What lies on the edge of the region that the static search covered, or outside."""
    points = static_points(search)
    w = weight_columns(points, tasks, "geometric")
    if len(points) < 3 or len(tasks) < 2 or not (w > 0).all():
        return
    searched = SearchedRegion(w)
    best = next(iter(arms.loc[arms["best_static"], "arm"]), "") or str(points["arm"].iloc[0])
    good = weight_columns(equals, tasks, "geometric")
    if len(good) and (sides := searched.touched(good)):  # a point as good that lies further in would do
        yield (
            f"the best static point, {best}, is on the edge of the searched region (beyond it: "
            f"{_directions(sides, tasks)}): widen the search, better weights may lie beyond"
        )
    for recipe, run in best_runs(search).items():
        mean = weights_of(run, tasks, "geometric")
        if (mean > 0).all() and (sides := searched.beyond(mean)):
            yield (
                f"E_t[w] of the {recipe} recipe lies outside the searched region ({_directions(sides, tasks)}): "
                "the static search has not tried such weights"
            )


def _directions(sides: Sequence[Vector], tasks: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(direction_words(side, tasks) for side in sides))


def _told(trials: pd.DataFrame) -> Iterator[str]:
    """What the trials had to say, one line for all that say the same."""
    told = trials.assign(alarm=trials["alarms"].str.split("\n")).explode("alarm")
    told = told[told["alarm"].fillna("") != ""]
    for _, group in told.groupby(told["alarm"].map(kind_of), sort=False):
        yield f"{_trials(group)}: {group['alarm'].iloc[0]}"


def _trials(trials: pd.DataFrame) -> str:
    """How many trials, of which arms: "3 trials (static/07, gradnorm/paper/alpha=0)"."""
    arms, count = list(dict.fromkeys(trials["arm"])), trials["identity"].nunique()
    shown = ", ".join(arms[:4]) + (f" and {len(arms) - 4} more arms" if len(arms) > 4 else "")
    return f"{count} trial{'s' if count > 1 else ''} ({shown})"
