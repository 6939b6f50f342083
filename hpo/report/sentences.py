"""The statistics behind the answers in sentences, each with at most two numbers: verdict, cost, search size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from hpo.compare import Comparison, Interval, Verdict
from hpo.core.number_format import duration, ratio, signed
from hpo.report.arm_labels import arm_label
from hpo.report.score_words import score_words

_HEADLINES = {
    "better": "GradNorm beats {rival}",
    "equivalent": "GradNorm matches {rival}",
    "worse": "GradNorm loses to {rival}",
    "inconclusive": "Inconclusive",
    "none": "No verdict",
}
_FINDINGS = {
    "better": "{arm} is better than {static}{which}.",
    "equivalent": "{arm} is equivalent to {static}{which}.",
    "worse": "GradNorm loses: {arm} is worse than {static}{which}.",
    "inconclusive": "It is not decided if {arm} is better or worse than {static}{which}.",
}


def rival(comparison: Comparison) -> str:
    """Name the weights that GradNorm is compared with: the best static ones or, without a search, the baseline."""
    if comparison.searched:
        return "the best static weights"
    return "the weights of today" if comparison.baseline else "equal weights"


def rival_arm(comparison: Comparison) -> str:
    """Name the arm that regrets are against: the best static arm or, without a search, the baseline."""
    return "the best static arm" if comparison.searched else rival(comparison)


def unconfirmed(comparison: Comparison) -> list[str]:
    """Return the shortlist's best arm with fixed weights, if the confirm phase has not trained it.

    It may have trained the same weights as the arm of a sweep; first-step weights differ from seed to seed.
    """
    columns = [f"w/{task}" for task in comparison.tasks]
    confirmed = comparison.arms[columns].to_numpy(dtype=float)
    best = comparison.shortlist[comparison.shortlist["chosen"].astype(bool)]
    best = best[~best["arm"].isin(comparison.arms["arm"])]
    return [
        str(row["arm"])
        for _, row in best.iterrows()
        if not np.isclose(confirmed, row[columns].to_numpy(dtype=float), rtol=1e-4, atol=0).all(axis=1).any()
    ]


def headline(comparison: Comparison) -> str:
    """Return the verdict in a few words; of a study that only looks for weights, the weights."""
    both = comparison.searched and comparison.swept
    if comparison.verdict.kind == "none" and not both and comparison.recommended:
        if unconfirmed(comparison):
            return "The confirm phase has not ended"
        if comparison.recommended == comparison.baseline:
            return "Keep the weights of today"
        return f"Train with {arm_label(comparison.recommended)}"
    return _HEADLINES[comparison.verdict.kind].format(
        rival="the static search" if comparison.searched else rival(comparison)
    )


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return the finding on the test split, the score unless it is the default, and cost and size of the search."""
    words = score_words(comparison.scoring)
    return *_finding(comparison), *words, *_cost(comparison), *_budget(comparison)


def plus_minus(found: Interval) -> str:
    """Return a difference and half its 95% interval: "-0.42 ± 0.38"."""
    mean = signed(found.mean)
    return f"{mean} ± {signed((found.high - found.low) / 2).lstrip('+')}" if math.isfinite(found.low) else mean


def span(first: int, last: int) -> str:
    """Return a range of epochs: "epoch 3", "epochs 3 to 9"."""
    return f"epoch {first}" if first == last else f"epochs {first} to {last}"


def _finding(comparison: Comparison) -> Iterator[str]:
    verdict = comparison.verdict
    if verdict.kind == "none":
        yield f"There is no verdict: {verdict.reason}."
        return
    finding = _FINDINGS[verdict.kind].format(
        arm=arm_label(verdict.arm),
        static=arm_label(verdict.static),
        which=", the best static arm" if comparison.searched else "",
    )
    yield finding[0].upper() + finding[1:]
    yield f"The regret on the test split is {plus_minus(verdict.regret)} percentage points."
    seeds = verdict.regret.seeds
    if seeds > 1:
        yield f"That is a 95% interval over {seeds} seeds, corrected for selection bias."
    else:
        yield "One seed gives no interval."
    yield f"Regrets within ±{comparison.margin:g} percentage points count as equivalent."
    if verdict.kind == "inconclusive" and seeds > 1:
        yield _missing_seeds(verdict)


def _missing_seeds(verdict: Verdict) -> str:
    amount = f"about {verdict.seeds_needed:,}" if verdict.seeds_needed else "more than 1,000"
    return f"If mean and variation stay the same, {amount} seeds give a verdict with a probability of 80%."


def more_seeds(verdict: Verdict) -> str:
    """Return the advice for an inconclusive verdict: "run 4 more seeds (seeds: 7 in the study file)"."""
    have, needed = verdict.regret.seeds, verdict.seeds_needed
    if not needed:
        return (
            "raise seeds in the study file" if have < 2 else "raise margin in the study file, or leave it undecided"
        )
    more = needed - have
    return f"run {more:,} more seed{'s' * (more > 1)} (seeds: {have + more} in the study file)"


def cost_by_way(comparison: Comparison) -> dict[str, pd.Series]:
    """Return the cost of each way to find weights."""
    return {str(row["way"]): row for _, row in comparison.cost.iterrows()}


def _cost(comparison: Comparison) -> Iterator[str]:
    if not comparison.searched:
        yield "The study has no static search to compare the cost with."
        return
    if not comparison.swept:
        yield "The study has no alpha sweep to compare the cost with."
        return
    cost = cost_by_way(comparison)
    static, sweeps = cost["static search"], cost["GradNorm, all alpha sweeps"]
    missing = [name for name, row in (("static search", static), ("alpha sweep", sweeps)) if not row["steps"]]
    if missing:
        yield f"The cost cannot be compared: no trial of the {' or the '.join(missing)} has run."
        return
    yield _cost_opening(sweeps)
    yield f"All alpha sweeps took {_times(sweeps)} of the static search."
    yield f"That is {duration(sweeps['seconds'])} against {duration(static['seconds'])}."
    run = one_run(comparison, cost)
    if math.isfinite(run["steps_ratio"]):
        yield f"One GradNorm run took {_times(run)} of the static search."


def _cost_opening(sweeps: pd.Series) -> str:
    more = [unit for unit in ("steps", "seconds") if sweeps[f"{unit}_ratio"] > 1]
    if more:
        return f"GradNorm cost more {' and more '.join(more)} than the static search."
    if sweeps["steps_ratio"] == 1:
        return "GradNorm cost as many steps as the static search."
    return "GradNorm cost less than the static search."


def _times(row: pd.Series) -> str:
    return f"{ratio(row['steps_ratio'])} times the steps and {ratio(row['seconds_ratio'])} times the seconds"


def one_run(comparison: Comparison, cost: Mapping[str, pd.Series]) -> pd.Series:
    """Return the cost of one run of the recipe that the verdict is on, or else of the first recipe."""
    recipes = comparison.arms.loc[comparison.arms["arm"] == comparison.verdict.arm, "recipe"].tolist()
    wanted = [f"GradNorm {recipe}, one run" for recipe in recipes]
    ways = [way for way in cost if way.endswith(", one run")]
    return cost[next((way for way in wanted if way in ways), ways[0])]


def matched(comparison: Comparison) -> pd.Series | None:
    """Return the budget of the recipe that the verdict is on, or else of the first; ``None`` if there is none."""
    table = comparison.budget.table
    if table.empty:
        return None
    recipes = comparison.arms.loc[comparison.arms["arm"] == comparison.verdict.arm, "recipe"].tolist()
    return next((row for _, row in table.iterrows() if row["recipe"] in recipes), table.iloc[0])


def _budget(comparison: Comparison) -> Iterator[str]:
    """Yield the size of a static search that equals the sweep of the recipe that the verdict is on."""
    row, n = matched(comparison), comparison.budget.points
    if row is None:
        return
    best = f"as good as the best run of the {row['recipe']} recipe's sweep (validation, search seed)"
    if row["beyond"]:
        yield f"None of the {n} static points is {best}."
        yield f"More points than these take more than {_times_sweep(row, '')}."
    else:
        yield f"A static search must try {row['k']} of the {n} static points to expect one {best}."
        yield f"These points take {_times_sweep(row, '')}."
    yield f"With 95% confidence, a static search must try at least {row['k_low']} points."
    yield f"These take {_times_sweep(row, '_low')}."
    if not comparison.random_points:
        yield "This bound treats the points as if they had been drawn at random."


def _times_sweep(row: pd.Series, end: str) -> str:
    steps, seconds = ratio(row[f"steps_sweep{end}"]), ratio(row[f"seconds_sweep{end}"])
    return f"{steps} times the steps and {seconds} times the seconds of the sweep"
