"""Alarms: what a reader must know before he believes the rest, one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from hpo.compare.arms import better_on_test
from hpo.compare.scores import baseline
from hpo.compare.trials import FIXED, static_points, weight_columns

FEW_SEEDS = 3


def alarms(
    trials: pd.DataFrame, search: pd.DataFrame, confirm: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]
) -> Iterator[str]:
    """All alarms of a study, the gravest first.

    Args:
        trials: all of them.
        search: the scored trials of the search seed.
        confirm: the scored trials of the confirm seeds.
        arms: the table of arms.
        tasks: their names.
    """
    for status in ("diverged", "failed"):
        if (trials["status"] == status).any():
            yield f"{_trials(trials[trials['status'] == status])} {status}"
    for phase, table, split in (
        ("search", trials[trials["phase"] != "confirm"], "val"),
        ("confirm", confirm, "test"),
    ):
        yield from _references(phase, baseline(table, tasks, split)) if len(table) else ()
    if len(arms) and arms["seeds"].max() < FEW_SEEDS:
        yield f"only {arms['seeds'].max()} seed(s): no interval is worth much below {FEW_SEEDS}"
    steps = confirm["steps"].unique()
    if len(steps) > 1:
        yield f"arms took unequal numbers of steps: {sorted(int(s) for s in steps)}"
    yield from _disagreement(arms, confirm)
    yield from _edge(search, arms, tasks)
    yield from _told(trials)


def kind_of(alarm: str) -> str:
    """An alarm without its numbers: many trials may tell the same with other figures."""
    return re.sub(r"\d[\d.,]*", "", alarm)


def _references(phase: str, reference: pd.Series) -> Iterator[str]:
    for task, value in reference.items():
        if value == 0 or not np.isfinite(value):
            yield (
                f"{phase} seeds: the single-task reference of {task} "
                f"{'is 0' if value == 0 else 'did not finish'}, so the task is left out of every score there"
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


def _edge(search: pd.DataFrame, arms: pd.DataFrame, tasks: Sequence[str]) -> Iterator[str]:
    """A best static point beyond which nothing was tried in some direction."""
    points = static_points(search)
    best = next(iter(arms.loc[arms["best_static"], "arm"]), "") or next(iter(points["arm"]), "")
    if len(points) < 3 or best not in set(points["arm"]):
        return
    w = weight_columns(points, tasks, "geometric")
    if not (w > 0).all():
        return
    shares = np.log(w) - np.log(w).mean(axis=1, keepdims=True)
    at = shares[int(np.flatnonzero(points["arm"] == best)[0])]
    ends: Mapping[str, np.ndarray] = {
        "lowest": np.isclose(at, shares.min(axis=0), atol=1e-6),
        "highest": np.isclose(at, shares.max(axis=0), atol=1e-6),
    }
    at_end = [f"the {end} of {task}" for end, hit in ends.items() for task in np.array(tasks)[hit]]
    if at_end:
        yield (
            f"the best static point, {best}, is on the edge of the searched region ({', '.join(at_end[:4])}, "
            "relative to the other tasks): widen the search, better weights may lie beyond"
        )


def _told(trials: pd.DataFrame) -> Iterator[str]:
    """What the trials had to say, one line for all that say the same."""
    told = trials.assign(alarm=trials["alarms"].str.split("\n")).explode("alarm")
    told = told[told["alarm"].fillna("") != ""]
    for _, group in told.groupby(told["alarm"].map(kind_of), sort=False):
        yield f"{_trials(group)}: {group['alarm'].iloc[0]}"


def _trials(trials: pd.DataFrame) -> str:
    """How many trials, of which arms: "3 trials (static/07, gradnorm/paper/alpha=0)"."""
    arms = list(dict.fromkeys(trials["arm"]))
    shown = ", ".join(arms[:4]) + (f" and {len(arms) - 4} more arms" if len(arms) > 4 else "")
    return f"{len(trials)} trial{'s' if len(trials) > 1 else ''} ({shown})"
