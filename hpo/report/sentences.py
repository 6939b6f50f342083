"""The statistics behind the answers, in words: what was found and what it cost. Plain when GradNorm loses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from hpo.compare import Comparison, Verdict
from hpo.core.number_format import bounds, duration, ratio, signed
from hpo.report.arm_labels import arm_label

_HEADLINES = {
    "better": "GradNorm beats {rival}",
    "equivalent": "GradNorm matches {rival}",
    "worse": "GradNorm loses to {rival}",
    "inconclusive": "Inconclusive",
    "none": "No verdict",
}
_FINDINGS = {
    "better": "{arm} is better than {static}{which}: {regret}.",
    "equivalent": "{arm} is equivalent to {static}{comma} within a margin of {margin}: {regret}.",
    "worse": "GradNorm loses: {arm} is worse than {static}{which}: {regret}.",
    "inconclusive": "Whether {arm} is better or worse than {static}{comma} is open: {regret}; {gap}.",
}


def rival(comparison: Comparison) -> str:
    """The arm that GradNorm is compared with: the best of the static search or, without one, the baseline."""
    if comparison.searched:
        return "the best static weights"
    return "the weights of today" if comparison.baseline else "equal weights"


def headline(comparison: Comparison) -> str:
    """The verdict in a few words."""
    return _HEADLINES[comparison.verdict.kind].format(
        rival="the static search" if comparison.searched else rival(comparison)
    )


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """What was found on the test split, what finding weights cost, and what the static search would have needed."""
    return _finding(comparison), _cost(comparison), *_budget(comparison)


def _finding(comparison: Comparison) -> str:
    verdict, margin = comparison.verdict, comparison.margin
    if verdict.kind == "none":
        return f"There is no verdict: {verdict.reason}."
    which = ", the best static arm" if comparison.searched else ""
    text = _FINDINGS[verdict.kind].format(
        arm=arm_label(verdict.arm),
        static=arm_label(verdict.static),
        which=which,
        comma=which and f"{which},",
        margin=f"{margin:g}",
        regret=_regret(verdict, margin),
        gap=_gap(verdict),
    )
    return text[0].upper() + text[1:]


def _regret(verdict: Verdict, margin: float) -> str:
    mean, low, high, seeds = verdict.regret
    interval = f"95% interval {bounds(low, high)}, " if math.isfinite(low) else ""
    plural = "seed" if seeds == 1 else "seeds"
    told = "" if verdict.kind == "equivalent" else f", margin {margin:g}"
    return f"regret {signed(mean)} percentage points ({interval}{seeds} {plural}, test split{told})"


def _gap(verdict: Verdict) -> str:
    """What an inconclusive verdict lacks."""
    if not math.isfinite(verdict.regret.low):
        return "one seed gives no interval"
    amount = f"about {verdict.seeds_needed:,}" if verdict.seeds_needed else "more than 1,000"
    return f"if mean and scatter stay as they are, {amount} seeds settle it with a probability of 80%"


def more_seeds(verdict: Verdict) -> str:
    """What to do about it: "run 4 more seeds (seeds: 7 in the study file)"."""
    have, needed = verdict.regret.seeds, verdict.seeds_needed
    if not needed:
        return "raise seeds in the study file" if have < 2 else "widen margin in the study file, or leave it open"
    more = needed - have
    return f"run {more:,} more seed{'s' * (more > 1)} (seeds: {have + more} in the study file)"


def cost_by_way(comparison: Comparison) -> dict[str, pd.Series]:
    """The cost of each way to find weights."""
    return {str(row["way"]): row for _, row in comparison.cost.iterrows()}


def _cost(comparison: Comparison) -> str:
    cost = cost_by_way(comparison)
    static, sweeps = cost["static search"], cost["GradNorm, all alpha sweeps"]
    missing = [name for name, row in (("static search", static), ("alpha sweep", sweeps)) if not row["steps"]]
    if missing and not comparison.searched:
        return "The study has no static search to compare the cost with."
    if missing:
        return f"The cost cannot be compared: no trial of the {' or the '.join(missing)} has trained."
    both = f"({duration(sweeps['seconds'])} against {duration(static['seconds'])})"
    text = f"{_cost_opening(sweeps)} all alpha sweeps took {_times(sweeps)} {both}"
    run = one_run(comparison, cost)
    return f"{text}; one GradNorm run took {_times(run)}." if math.isfinite(run["steps_ratio"]) else f"{text}."


def _cost_opening(sweeps: pd.Series) -> str:
    more = [unit for unit in ("steps", "seconds") if sweeps[f"{unit}_ratio"] > 1]
    if more:
        return f"GradNorm cost more {' and more '.join(more)} than the static search:"
    if sweeps["steps_ratio"] == 1:
        return "GradNorm cost as many steps as the static search:"
    return "GradNorm cost less than the static search:"


def _times(row: pd.Series) -> str:
    return f"{ratio(row['steps_ratio'])} times its steps and {ratio(row['seconds_ratio'])} times its measured seconds"


def one_run(comparison: Comparison, cost: Mapping[str, pd.Series]) -> pd.Series:
    """One run of the recipe that the verdict is on, or else of the first."""
    recipes = comparison.arms.loc[comparison.arms["arm"] == comparison.verdict.arm, "recipe"].tolist()
    wanted = [f"GradNorm {recipe}, one run" for recipe in recipes]
    ways = [way for way in cost if way.endswith(", one run")]
    return cost[next((way for way in wanted if way in ways), ways[0])]


def _budget(comparison: Comparison) -> Iterator[str]:
    """How large a static search equals the sweep of the recipe that the verdict is on."""
    table = comparison.budget.table
    if table.empty:
        return
    recipes = comparison.arms.loc[comparison.arms["arm"] == comparison.verdict.arm, "recipe"].tolist()
    row = next((row for _, row in table.iterrows() if row["recipe"] in recipes), table.iloc[0])
    n = len(comparison.budget.curve)
    bound = "95%" if comparison.random_points else "95%, if the points stood for random ones"
    if row["beyond"]:
        yield (
            f"None of the {n} static points matches the best run of the {row['recipe']} recipe's sweep on the "
            f"search seed's validation: a static search as good must be expected to try more than those, which is "
            f"{ratio(row['steps_sweep'])} times the sweep's steps; at least {row['k_low']} ({bound}), "
            f"{ratio(row['steps_sweep_low'])} times."
        )
        return
    yield (
        f"To expect a point as good as the best run of the {row['recipe']} recipe's sweep (validation, search seed), "
        f"a static search must try {row['k']} of the {n} points, at least {row['k_low']} ({bound}): "
        f"{ratio(row['steps_sweep'])} times the sweep's steps and {ratio(row['seconds_sweep'])} times its seconds, "
        f"at least {ratio(row['steps_sweep_low'])} and {ratio(row['seconds_sweep_low'])}."
    )
