"""Alarms: facts that limit how far the results of a study can be trusted, one line each."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd

from hpo.compare.arms_table import better_on_test
from hpo.compare.flatness import flat_optimum
from hpo.compare.limits import candidates, closest, kept_arms
from hpo.compare.scores import on_search_seed, reference_metrics
from hpo.compare.scoring import Scoring
from hpo.compare.searched_region import SearchedRegion, direction_words
from hpo.compare.shortened_search import cheaper_search
from hpo.compare.trial_table import Vector, best_runs, static_points, weight_columns, weights_of
from hpo.core.arm import FIXED, REFERENCE, SEARCHED
from hpo.core.change import scale_of
from hpo.core.trial import TrialStatus

FEW_SEEDS = 3


def alarms(
    trials: pd.DataFrame,
    search: pd.DataFrame,
    confirm: pd.DataFrame,
    arms: pd.DataFrame,
    equals: pd.DataFrame,
    limits: pd.DataFrame,
    scoring: Scoring,
) -> Iterator[str]:
    """Yield all alarms of a study, the most serious first.

    Args:
        trials: the whole table of trials.
        search: the scored trials of the search seed.
        confirm: the scored trials of the confirm seeds.
        arms: the table of arms.
        equals: the static points that cannot be distinguished from the best one.
        limits: the table of limits.
        scoring: how each task is measured.
    """
    tasks = tuple(scoring)
    for status in (TrialStatus.DIVERGED, TrialStatus.FAILED):
        if (trials["status"] == status).any():
            yield f"{_trials(trials[trials['status'] == status])} {status}"
    yield from _unused_weights(on_search_seed(trials), tasks)
    yield from _missed_limits(arms, limits)
    for seeds, table, split in (
        ("search seed", on_search_seed(trials), "val"),
        ("confirm seeds", confirm, "test"),
    ):
        reference = reference_metrics(table, scoring, split)
        yield from _references(seeds, reference, scoring) if len(table) else ()
        yield from _near_zero(seeds, table, reference, scoring, split)
    if len(arms) and arms["seeds"].max() < FEW_SEEDS:
        yield _few_seeds(int(arms["seeds"].max()))
    steps = confirm["steps"].unique()
    if len(steps) > 1:
        yield f"arms were trained for different numbers of steps, from {steps.min():.0f} to {steps.max():.0f}"
    yield from cheaper_search(search)
    yield from _disagreement(arms, confirm, kept_arms(limits, scoring))
    if len(arms) and arms["seeds"].max() >= FEW_SEEDS:  # fewer seeds do not estimate the noise
        yield from flat_optimum(search, equals, arms, tasks)
    yield from _edge(search, equals, arms, tasks)
    yield from _alarms_of_trials(trials)


def kind_of(alarm: str) -> str:
    """Return an alarm without its numbers, so that the same alarm of many trials is listed once; "f1" stays."""
    return re.sub(r"(?<![\w.-])-?\d[\d.,]*(e[+-]?\d+)?(?!\w)", "", alarm)


def _few_seeds(seeds: int) -> str:
    plural = "" if seeds == 1 else "s"
    return f"only {seeds} confirm seed{plural}: intervals from fewer than {FEW_SEEDS} seeds are unreliable"


def _unused_weights(search: pd.DataFrame, tasks: Sequence[str]) -> Iterator[str]:
    """Yield an alarm if at least three weightings have trained the same network."""
    points = search[search["kind"].isin(SEARCHED) & (search["status"] == TrialStatus.FINISHED)]
    if len(tasks) < 2 or len(points) < 3 or len(np.unique(weight_columns(points, tasks, "arithmetic"), axis=0)) < 3:
        return
    metrics = points[[f"val/{task}" for task in tasks]].to_numpy()
    if (metrics == metrics[0]).all():
        yield (
            f"{_trials(points)} with different weights have the same metrics, to the last digit: the weights are not "
            "used in training. `gradsweep check` finds out"
        )


def _references(seeds: str, reference: pd.Series, scoring: Scoring) -> Iterator[str]:
    for task, value in reference.items():
        if np.isnan(scale_of(scoring[str(task)].change, value)):
            fault = "is 0" if value == 0 else "did not finish"
            yield f"the single-task reference of {task} {fault} on the {seeds}: scores there leave this task out"


def _missed_limits(arms: pd.DataFrame, limits: pd.DataFrame) -> Iterator[str]:
    """Yield an alarm if no arm with fixed weights keeps the limits, with what comes closest."""
    best = arms[arms["recommended"] & (arms["misses"] != "")]
    if best.empty:
        return
    by_task = limits.drop_duplicates("task")
    told = ", ".join(f"{row['task']} at most {row['limit']:g}% behind" for _, row in by_task.iterrows())
    near = closest(limits)
    text = f"no fixed weights keep the limits with 95% confidence on validation ({told} its single-task network)"
    if near.empty:
        yield f"{text}: fewer than two seeds give no confidence"
        return
    behind = ", ".join(f"{row['task']} up to {row['bound']:.2g}%" for _, row in near.iterrows())
    yield f"{text}. {near['arm'].iloc[0]} comes closest ({behind}). {best['arm'].iloc[0]} has the best score of all"


def _near_zero(seeds: str, table: pd.DataFrame, reference: pd.Series, scoring: Scoring, split: str) -> Iterator[str]:
    """Yield alarms on references so near 0 that one task decides the score.

    That is, the other trials have the opposite sign or, if larger is better, more than twice as much. An error may be
    many times larger without being near 0.
    """
    scored = table[(table["kind"] != REFERENCE) & (table["status"] == TrialStatus.FINISHED)]
    for task, how in scoring.items():
        value, others = reference[task], scored[f"{split}/{task}"].median() if len(scored) else np.nan
        if how.change != "relative" or how.priority == 0:
            continue
        if not np.isfinite(value) or not np.isfinite(others) or value == 0:
            continue
        if others / value < 0 or (how.direction < 0 and abs(others) > 2 * abs(value)):
            yield (
                f"the single-task reference of {task} on the {seeds} is {value:.2g}, near zero compared with "
                f"the {others:.2g} of other trials. The score divides by it, so that this task decides the score. "
                'Set change="absolute", or a number as its scale, in its Task, or measure it by an error'
            )


def _disagreement(arms: pd.DataFrame, confirm: pd.DataFrame, kept: Collection[str] | None) -> Iterator[str]:
    recommended = next(iter(arms.loc[arms["recommended"], "arm"]), "")
    arm, gain = (
        better_on_test(candidates(arms, FIXED, kept), confirm, FIXED, recommended) if recommended else ("", 0.0)
    )
    if arm:
        yield (
            f"validation and test disagree: validation chose {recommended}, but on test {arm} is better by "
            f"{-gain:.2g} percentage points, more than the variation between seeds explains. Check that the "
            "validation split resembles the test split and is large enough"
        )


def _edge(search: pd.DataFrame, equals: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]) -> Iterator[str]:
    """Yield alarms on weights at the edge of the region that the static search covered, or outside it."""
    points = static_points(search)
    w = weight_columns(points, tasks, "geometric")
    if len(points) < 3 or len(tasks) < 2 or not (w > 0).all():
        return
    searched = SearchedRegion(w)
    best = next(iter(arms.loc[arms["best_static"], "arm"]), "") or str(points["arm"].iloc[0])
    good = weight_columns(equals, tasks, "geometric")
    if len(good) and (sides := searched.touched(good)):  # no alarm if an equally good point lies further in
        yield (
            f"the best static point, {best}, is on the edge of the searched region. Better weights may lie beyond "
            f"it ({_directions(sides, tasks)}): widen the search"
        )
    for recipe, run in best_runs(search).items():
        mean = weights_of(run, tasks, "geometric")
        if (mean > 0).all() and (sides := searched.beyond(mean)):
            yield (
                f"E_t[w] of the {recipe} recipe is outside the searched region ({_directions(sides, tasks)}): the "
                "static search has not tried such weights. Widen the search"
            )


def _directions(sides: Sequence[Vector], tasks: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(direction_words(side, tasks) for side in sides))


def _alarms_of_trials(trials: pd.DataFrame) -> Iterator[str]:
    """Yield the alarms of single trials, one line for all trials with the same alarm."""
    lines = trials.assign(alarm=trials["alarms"].str.split("\n")).explode("alarm")
    lines = lines[lines["alarm"].fillna("") != ""]
    for _, group in lines.groupby(lines["alarm"].map(kind_of), sort=False):
        yield f"{_trials(group)}: {group['alarm'].iloc[0]}"


def _trials(trials: pd.DataFrame) -> str:
    """Return the number of trials and their arms: "3 trials (static/07, gradnorm/paper/alpha=0)"."""
    arms, count = list(dict.fromkeys(trials["arm"])), trials["identity"].nunique()
    shown = ", ".join(arms[:4]) + (f" and {len(arms) - 4} more arms" if len(arms) > 4 else "")
    return f"{count} trial{'s' if count > 1 else ''} ({shown})"
