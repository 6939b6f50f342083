"""What a cheaper search, of shorter runs or of points that are stopped early, does to the reading of a study."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from scipy import stats

from hpo.compare.rank_correlation import spearman
from hpo.compare.trial_table import static_points
from hpo.core.arm import FULL, Arm
from hpo.core.trial import TrialStatus


class ShortRuns(NamedTuple):
    """How far the order of short runs is that of full ones.

    Attributes:
        points: static points trained both ways on the search seed.
        rho: Spearman's, of their validation scores; NaN below three points.
        low, high: its 95% interval; NaN below four.
        steps: of a short run and of a full one, means over these points.
    """

    points: int
    rho: float
    low: float
    high: float
    steps: tuple[float, float]


def short_runs(search: pd.DataFrame) -> ShortRuns | None:
    """Static points of a shortened search against the same points trained to the end; ``None`` where there are none.

    The interval is Bonett and Wright's, "Sample size requirements for estimating Pearson, Kendall and Spearman
    correlations", Psychometrika 65 (2000): ``tanh(atanh(rho) -+ 1.96 sqrt((1 + rho^2 / 2) / (n - 3)))``.

    Args:
        search: the scored trials of the search seed; scores of both kinds are against the same references.
    """
    full = search[(search["kind"] == FULL) & search["score"].notna()]
    if full.empty:
        return None
    full = full.assign(arm=[replace(Arm.parse(key), kind="static").key for key in full["arm"]])
    columns = ["arm", "score", "steps"]
    both = full[columns].merge(static_points(search)[columns], on="arm", suffixes=("", "_short"))
    n = len(both)
    rho = float(spearman(both["score"], [both["score_short"]])[0])
    low = high = math.nan
    if n > 3 and math.isfinite(rho):
        half = stats.norm.ppf(0.975) * math.sqrt((1 + rho**2 / 2) / (n - 3))
        middle = math.atanh(min(max(rho, -1 + 1e-12), 1 - 1e-12))
        low, high = math.tanh(middle - half), math.tanh(middle + half)
    return ShortRuns(n, rho, low, high, (float(both["steps_short"].mean()), float(both["steps"].mean())))


def cheaper_search(search: pd.DataFrame) -> Iterator[str]:
    """What a reader must know of a search that was cut short, one line each."""
    if (found := short_runs(search)) is not None:
        yield _short_words(found)
    stopped = search[search["status"] == TrialStatus.STOPPED] if "status" in search else search.head(0)
    if len(stopped):
        ended = len(static_points(search))
        at = ", ".join(f"{int(steps)}" for steps in sorted(stopped["steps"].unique()))
        yield (
            f"{len(stopped)} of {len(stopped) + ended} static points were stopped early, after {at} steps, since "
            "others did better there: ranks and budget count them by that score, which more training would have "
            "improved, and surface, region and Figure 4 leave them out. If one of them would have been the best, the "
            "verdict flatters GradNorm"
        )


def _short_words(found: ShortRuns) -> str:
    short, full = found.steps
    text = f"the search is of short runs, of {short:.0f} steps in place of {full:.0f}"
    if not math.isfinite(found.rho):
        return f"{text}; whether they put static points in the order of full runs, {found.points} points cannot say"
    interval = f", 95% {found.low:.2f} to {found.high:.2f}" if math.isfinite(found.low) else ""
    advice = ""
    if not math.isfinite(found.low) or found.low < 0.5:
        advice = "; that is too little to trust the choice of static points: longer runs, or a larger search.full"
    return (
        f"{text}: Spearman's rho of the validation scores of static points trained both ways is {found.rho:.2f} "
        f"({found.points} points{interval}){advice}"
    )
