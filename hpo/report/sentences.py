"""The verdict in words: what was found, what it cost, what to do. Plain when GradNorm loses or costs more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from hpo.compare import Comparison, Interval, Verdict, judge
from hpo.core.number_format import bounds, duration, ratio, signed
from hpo.report.arm_labels import arm_label
from hpo.report.report_data import recommended_weights
from hpo.report.training_code import line_of

_HEADLINES = {
    "better": "GradNorm beats the static search",
    "equivalent": "GradNorm matches the static search",
    "worse": "GradNorm loses to the static search",
    "inconclusive": "Inconclusive",
    "none": "No verdict",
}
_FINDINGS = {
    "better": "{arm} is better than {static}, the best static arm: {regret}.",
    "equivalent": "{arm} is equivalent to {static}, the best static arm, within a margin of {margin}: {regret}.",
    "worse": "GradNorm loses: {arm} is worse than {static}, the best static arm: {regret}.",
    "inconclusive": "Whether {arm} is better or worse than {static}, the best static arm, is open: {regret}; {gap}.",
}


def headline(comparison: Comparison) -> str:
    """The verdict in a few words."""
    return _HEADLINES[comparison.verdict.kind]


def sentences(comparison: Comparison) -> tuple[str, ...]:
    """What was found on the test split, what finding weights cost, and what the static search would have needed."""
    return _finding(comparison), _cost(comparison), *_budget(comparison)


class Best(NamedTuple):
    """Who won, and the code that trains with it; empty if it is not known."""

    words: str
    code: str

    @property
    def text(self) -> str:
        """Both as one text, for a terminal."""
        return f"{self.words} {self.code}".strip()


def best(comparison: Comparison) -> Best | None:
    """The best arm of all, if no weights file can hold it; `recommendation` says what to do with fixed weights."""
    winner = comparison.winner
    if not winner.moves:
        return None
    line = line_of(winner)
    found = f"Best on validation: {arm_label(winner.arm)}{_gain(comparison)}"
    moves = "Its weights move during training, so no weights file can hold it"
    if line is None:
        return Best(f"{found} {moves}.", "")
    where = f" ({', '.join(line.where)})" if line.where else ""
    return Best(f"{found} {moves}; train with{where}:", line.text)


def _gain(comparison: Comparison) -> str:
    """What the winner gains on test over the best fixed weights, as far as seeds can tell."""
    gain = comparison.winner.gain
    if not math.isfinite(gain.mean):
        return "."
    amount = f"{signed(abs(gain.mean)).lstrip('+')} percentage points"
    if not math.isfinite(gain.low):
        side = "as good as" if gain.mean == 0 else "better than" if gain.mean > 0 else "worse than"
        by = f", by {amount}" if gain.mean else ""
        return f". On test it is {side} the best fixed weights{by} (one seed gives no interval)."
    low, high = (signed(end).lstrip("+") for end in sorted((gain.low, gain.high), key=abs))
    if gain.low > 0:
        told = f". On test it is better than the best fixed weights, by {amount} (95% interval {low} to {high})."
    elif gain.high < 0:
        ends = f"{low.lstrip('-')} to {high.lstrip('-')}"
        told = f". On test it is worse than the best fixed weights, by {amount} (95% interval {ends})."
    else:
        told = (
            f". Its gain on test over the best fixed weights, {signed(gain.mean)} percentage points, cannot be "
            f"distinguished from 0 (95% interval {bounds(gain.low, gain.high)})."
        )
    return told + _within(gain, comparison.margin)


def _within(gain: Interval, margin: float) -> str:
    within = judge(gain, margin) == "equivalent"
    return f" That is within the study's margin of {margin:g}: no difference that matters." if within else ""


def recommendation(comparison: Comparison) -> str:
    """What to do, in one line; with fixed weights, if the best arm of all has none."""
    weights = recommended_weights(comparison)
    return advice(comparison, ": " + ", ".join(f"{task} {value:.4g}" for task, value in weights.items()))


def advice(comparison: Comparison, weights: str = "") -> str:
    """What to do; ``weights`` follow the arm's name."""
    moves = comparison.winner.moves
    if not comparison.recommended:
        return (
            f"{'No fixed weights' if moves else 'Nothing'} to train with: no arm with fixed weights has come through "
            "the confirm phase with a score. If the study was stopped, the same command again resumes it."
        )
    text = f"{'For fixed weights, train' if moves else 'Train'} with {arm_label(comparison.recommended)}{weights}."
    what = "It has the best fixed weights" if moves else "It is the best"
    caution = _CAUTIONS[comparison.verdict.kind].format(best=what, more=_more_seeds(comparison.verdict))
    return f"{text} {caution}".strip()


_CAUTIONS = {
    "better": "",
    "equivalent": "",
    "worse": "",
    "inconclusive": "{best} on validation so far; for a verdict {more}.",
    "none": "{best} on validation so far; if the study was stopped, the same command again resumes it.",
}


def _finding(comparison: Comparison) -> str:
    verdict, margin = comparison.verdict, comparison.margin
    if verdict.kind == "none":
        return f"There is no verdict: {verdict.reason}."
    text = _FINDINGS[verdict.kind].format(
        arm=arm_label(verdict.arm),
        static=arm_label(verdict.static),
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


def _more_seeds(verdict: Verdict) -> str:
    """What to do about it: "run 4 more seeds (seeds: 7 in the study file)"."""
    have, needed = verdict.regret.seeds, verdict.seeds_needed
    if not needed:
        return "raise seeds in the study file" if have < 2 else "widen margin in the study file, or leave it open"
    more = needed - have
    return f"run {more:,} more seed{'s' * (more > 1)} (seeds: {have + more} in the study file)"


def _cost(comparison: Comparison) -> str:
    cost = {str(row["way"]): row for _, row in comparison.cost.iterrows()}
    static, sweeps = cost["static search"], cost["GradNorm, all alpha sweeps"]
    missing = [name for name, row in (("static search", static), ("alpha sweep", sweeps)) if not row["steps"]]
    if missing:
        return f"The cost cannot be compared: no trial of the {' or the '.join(missing)} has trained."
    both = f"({duration(sweeps['seconds'])} against {duration(static['seconds'])})"
    text = f"{_cost_opening(sweeps)} all alpha sweeps took {_times(sweeps)} {both}"
    run = _one_run(comparison, cost)
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


def _one_run(comparison: Comparison, cost: Mapping[str, pd.Series]) -> pd.Series:
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
