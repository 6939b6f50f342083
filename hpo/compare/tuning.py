"""Arms with several sets of the problem's arguments: the score over each argument, and what tuning contributes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from hpo.compare.intervals import NO_INTERVAL, Interval
from hpo.compare.scores import scored_validation
from hpo.compare.scoring import Scoring
from hpo.compare.verdicts import Verdict, verdict
from hpo.compare.winner import gain_over
from hpo.core.arm import OUTSIDE, Arm

PHASE = "tune"  # its trials choose no arm, only the arguments of one
Sets = Mapping[str, Mapping[str, Any]]
COLUMNS = ["arm", "kind", "arguments", "score", "best", "seeds", "low", "high", "objective"]


@dataclass(frozen=True)
class Tuning:
    """The arms of a study that tunes arguments of the problem; empty without these.

    Attributes:
        sets: the values of the arguments by the label of their set; that of the problem's own is empty.
        scores: one row per arm and set: ``arm`` (without arguments), ``kind, arguments`` (the label), ``score``
            (validation, mean over the seeds), ``best`` (true for the arm's best set), the number of ``seeds``, and
            the lowest and highest score on them, ``low, high``.
        gains: by how much each arm is better on test with its best arguments than with the problem's own, paired by
            seed, above 0 if it is better; not corrected for selection bias.
        common: the verdict where every arm has the problem's own arguments.
        alarms: best values at an end of the values that were tried.
    """

    sets: Sets = field(default_factory=dict)
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS[:-1]))
    gains: Mapping[str, Interval] = field(default_factory=dict)
    common: Verdict = field(default_factory=lambda: Verdict("none", NO_INTERVAL, "", ""))
    alarms: tuple[str, ...] = ()

    def best_set(self, arm: str) -> str:
        """Return the label of an arm's best set."""
        own = self.scores[(self.scores["arm"] == arm) & self.scores["best"].astype(bool)]
        return "" if own.empty else str(own["arguments"].iloc[0])


def tuning(
    trials: pd.DataFrame,
    confirm: pd.DataFrame,
    scoring: Scoring,
    margin: float,
    rivals: tuple[str, ...],
    kept: Collection[str] | None,
    found: Verdict,
    sets: Sets,
) -> Tuning:
    """Compare the sets of arguments of each arm.

    Args:
        trials: see `hpo.compare`.
        confirm: the scored trials of the confirm seeds.
        scoring: how each task is measured.
        margin: of equivalence.
        rivals: the kinds of arm that GradNorm is compared with.
        kept: the arms that keep the limits; ``None`` without limits.
        found: the verdict with each arm at its best arguments.
        sets: see `Tuning`.
    """
    if len(sets) < 2:
        return Tuning()
    scores = _scores(trials, scoring)
    own = confirm[confirm["arm"].map(lambda arm: not Arm.parse(arm).arguments).astype(bool)]
    common = verdict(own, margin, rivals, kept)
    best = {str(row["arm"]): str(row["arguments"]) for _, row in scores[scores["best"]].iterrows()}
    tuned = {arm: replace(Arm.parse(arm), arguments=label).key for arm, label in best.items() if label}
    gains = {arm: gain_over(confirm, other, arm) for arm, other in tuned.items()}
    return Tuning(sets, scores, gains, common, tuple(_edges(scores, found, sets)))


def _scores(trials: pd.DataFrame, scoring: Scoring) -> pd.DataFrame:
    """Return the validation scores of the arms that were trained with several sets, over the seeds of all their sets.

    The single-task networks of the search seed are the reference on every seed, as in the race.
    """
    search = scored_validation(trials, scoring)
    search = search[~search["kind"].isin(OUTSIDE)].drop_duplicates(["arm", "seed"])
    parsed = [Arm.parse(arm) for arm in search["arm"]]
    search = search.assign(arm=[arm.base.key for arm in parsed], arguments=[arm.arguments for arm in parsed])
    search = search[search.groupby("arm")["arguments"].transform("nunique") > 1]  # most static points have one set
    rows = [row for _, own in search.groupby("arm", sort=False) for row in _sets_of(own)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    lowest = table[table["objective"].notna()].groupby("arm", sort=False)["objective"].idxmin()
    table.loc[lowest, "best"] = True
    return table.drop(columns="objective")


def _sets_of(own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield a row for each set of an arm, on the seeds that all sets have; ``own`` are its trials."""
    sets = own["arguments"].nunique()
    counts = own.groupby("seed")["arguments"].nunique()
    common = own[own["seed"].isin(counts.index[counts == sets])]
    for label, one in common.groupby("arguments", sort=False):
        score = one["score"].mean(skipna=False)  # of a set with which a seed has diverged there is none
        yield {
            "arm": one["arm"].iloc[0],
            "kind": one["kind"].iloc[0],
            "arguments": label,
            "score": score,
            "best": False,
            "seeds": len(one),
            "low": one["score"].min(skipna=False),
            "high": one["score"].max(skipna=False),
            "objective": one["objective"].mean(skipna=False),
        }


def _edges(scores: pd.DataFrame, found: Verdict, sets: Sets) -> Iterator[str]:
    """Yield an alarm for each arm of the verdict whose best value of an argument is at an end of those tried."""
    arms = dict.fromkeys(Arm.parse(arm).base.key for arm in (found.arm, found.static) if arm)
    for arm in arms:
        best = scores[(scores["arm"] == arm) & scores["best"]]
        for label in best["arguments"]:
            for name, value in sets[label].items():
                if end := _end(value, [values[name] for values in sets.values()]):
                    yield (
                        f"the best {name} of {arm} is {value:g}, the {end} that was tried. A better one may lie "
                        f"beyond it: widen tune.{name}"
                    )


def _end(value: Any, tried: list[Any]) -> str:
    """Return "lowest" or "highest" if a number is at an end of at least three different ones; else empty."""
    numbers = {one for one in tried if isinstance(one, int | float) and not isinstance(one, bool)}
    if len(numbers) < 3 or value not in numbers:
        return ""
    return {min(numbers): "lowest", max(numbers): "highest"}.get(value, "")
