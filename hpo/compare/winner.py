"""The best arm of all, fixed weights or not, and its gain over the best fixed weights."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from hpo.compare.intervals import NO_INTERVAL, Interval, interval, regret
from hpo.compare.trial_table import complete_arms
from hpo.compare.verdicts import best_arm
from hpo.core.arm import FIXED, OUTSIDE, Arm


@dataclass(frozen=True)
class Winner:
    """The arm with the best mean validation score over the confirm seeds.

    Attributes:
        arm: its name, empty if no arm has a score; ``kind`` its kind.
        exportable: true if its weights are fixed, so that a weights file can hold them.
        gain: test score of the recommended arm, which has the best fixed weights, minus its own, paired by seed:
            above 0 if the winner is better. Not corrected for selection bias; NaN if it is the recommended arm.
        recipe, alpha, learning_rate: of a GradNorm run, else empty and NaN; the rate is NaN unless it was searched.
        steps: optimizer steps of its longest run.
    """

    arm: str = ""
    kind: str = ""
    exportable: bool = False
    gain: Interval = NO_INTERVAL
    recipe: str = ""
    alpha: float = math.nan
    learning_rate: float = math.nan
    steps: int = 0

    @property
    def moves(self) -> bool:
        """True if there is a winner whose weights change during training, so that no weights file can hold it."""
        return bool(self.arm) and not self.exportable


def best_version(confirm: pd.DataFrame, arm: str) -> str:
    """Return the arm or, of a tuned study, the arm with the arguments that are best for it on validation."""
    arms = [key for key in confirm["arm"].unique() if Arm.parse(key).base.key == arm]
    scores = complete_arms(confirm[confirm["arm"].isin(arms)], tuple(confirm["kind"].unique()))
    return arm if scores.empty else str(scores.mean().idxmin())


def gain_over(confirm: pd.DataFrame, arm: str, other: str) -> Interval:
    """Compute the test score of ``other`` minus that of ``arm``, paired by seed: above 0 if ``arm`` is better.

    Not corrected for selection bias; NaN if one of them has no score or both are the same arm.
    """
    one, two = (confirm[confirm["arm"] == name] for name in (arm, other))
    if arm == other or one.empty or two.empty:
        return NO_INTERVAL
    differences = regret(two, one, "test")
    return NO_INTERVAL if differences.empty else interval(differences)


def winner(confirm: pd.DataFrame, recommended: str, kept: Collection[str] | None = None) -> Winner:
    """Find the best arm on validation among all kinds that can train a network, and its gain on test.

    Args:
        confirm: trials of the confirm seeds with ``score_val`` and ``score_test``.
        recommended: the arm with the best fixed weights; empty if there is none.
        kept: the arms that keep the limits; ``None`` without limits.
    """
    arm = best_arm(confirm, tuple(kind for kind in confirm["kind"].unique() if kind not in OUTSIDE), kept)
    if not arm:
        return Winner()
    trials = confirm[confirm["arm"] == arm]
    first = trials.iloc[0]
    return Winner(
        arm=arm,
        kind=str(first["kind"]),
        exportable=first["kind"] in FIXED,
        gain=gain_over(confirm, arm, recommended),
        recipe=str(first["recipe"]),
        alpha=float(first["alpha"]),
        learning_rate=float(first.get("learning_rate", math.nan)),
        steps=int(trials["steps"].max()),
    )
