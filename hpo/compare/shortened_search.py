"""Effect of a cheaper search, with shorter runs or points stopped early, on the results of a study."""

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
    """Agreement of the order of short runs with that of full runs.

    Attributes:
        points: number of static points trained both ways on the search seed.
        rho: Spearman's rho of their validation scores; NaN below three points.
        low, high: its 95% interval; NaN below four points.
        steps: mean optimizer steps of a short and of a full run of these points.
    """

    points: int
    rho: float
    low: float
    high: float
    steps: tuple[float, float]


def short_runs(search: pd.DataFrame) -> ShortRuns | None:
    """Compare static points of a shortened search with the same points trained to the end; ``None`` without any.

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
    """Yield alarms on a search that was shortened, one line each."""
    if (found := short_runs(search)) is not None:
        yield _short_words(found)
    stopped = search[search["status"] == TrialStatus.STOPPED] if "status" in search else search.head(0)
    if len(stopped):
        ended = len(static_points(search))
        yield (
            f"{len(stopped)} of {len(stopped) + ended} static points were stopped early, because others were better "
            f"at the same step ({_range(stopped['steps'])}). Ranks and budget use their last score, which more "
            "training might have improved; response surface, region and Figure 4 leave them out. If one of them "
            "would have become the best, the verdict is too favourable to GradNorm"
        )


def _range(steps: pd.Series) -> str:
    """Return the steps at which trials were stopped: "40 steps", "10 to 40 steps"."""
    low, high = int(steps.min()), int(steps.max())
    return f"{low} steps" if low == high else f"{low} to {high} steps"


def _short_words(found: ShortRuns) -> str:
    short, full = found.steps
    text = f"the search used short runs, of {short:.0f} steps instead of {full:.0f}."
    if not math.isfinite(found.rho):
        return (
            f"{text} {found.points} static points trained both ways are too few to say if short runs order the "
            "points as full runs do"
        )
    text += (
        f" Spearman's rho of the validation scores of static points trained both ways is {found.rho:.2f} "
        f"({found.points} points)."
    )
    if math.isfinite(found.low):
        text += f" The 95% interval of rho is {found.low:.2f} to {found.high:.2f}."
    if not math.isfinite(found.low) or found.low < 0.5:
        text += " This is too low to rely on the choice of static points: use longer runs or raise search.full."
    return text.removesuffix(".")
