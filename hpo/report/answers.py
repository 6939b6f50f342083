"""Answers to the questions of a study: which weights, was the search worth it, what did it cost."""

from __future__ import annotations

import math
from typing import NamedTuple

from hpo.compare import Comparison, Interval, best_version, gain_over, judge
from hpo.compare.cost import ONE_FIXED, WHOLE
from hpo.core.arm import OUTSIDE, REFINED, SEARCHED
from hpo.core.number_format import ratio
from hpo.report.arm_labels import arm_label
from hpo.report.score_words import limits_in_words
from hpo.report.sentences import cost_by_way, more_seeds, one_run, plus_minus, rival, span, unconfirmed
from hpo.report.training_code import line_of
from hpo.report.tuning_words import tuning_sentences

POINTS = "percentage points"


class Answer(NamedTuple):
    """A question with its answer.

    Attributes:
        question: the question as readers ask it.
        sentences: the answer; each sentence has at most two numbers.
        code: a line of Python to copy; empty if there is none.
        short: the answer in fewer words, for the command line; empty if it is short. Code follows only after a colon.
    """

    question: str
    sentences: tuple[str, ...]
    code: str = ""
    short: str = ""

    @property
    def text(self) -> str:
        """Sentences and code in one line."""
        return " ".join([*self.sentences, *([self.code] if self.code else [])])


def answers(comparison: Comparison) -> list[Answer]:
    """Answer the questions in the order in which people ask them: weights, worth, cost."""
    moving = moving_winner(comparison)
    worth = [_worth(comparison)] if comparison.searched or comparison.verdict.kind != "none" else []
    if comparison.searched and not comparison.swept and comparison.verdict.kind == "none":
        worth = [_worth_without_gradnorm(comparison)]
    tuned = tuning_sentences(comparison)
    arguments = [Answer("How much is due to the arguments?", tuned, short=" ".join(tuned[1:3]))] if tuned else []
    return [_weights(comparison), *([moving] if moving else []), *worth, *arguments, _cost(comparison)]


def _weights(comparison: Comparison) -> Answer:
    question = "Which weights should I train with?"
    arm = comparison.recommended
    if not arm:
        missing = "No arm with fixed weights has finished the confirm phase."
        return Answer(question, (missing, "Run the same command again to resume a stopped study."))
    both = comparison.searched and comparison.swept
    is_open = both and comparison.verdict.kind in ("none", "inconclusive")
    so_far = " so far" if is_open or unconfirmed(comparison) else ""
    chosen = f"Train with {arm_label(arm)}: it has the best fixed weights on validation{so_far}{_within(comparison)}."
    if arm == comparison.baseline:
        chosen = f"Keep the weights that you have: none has done better on validation{so_far}{_within(comparison)}."
    if missed := comparison.misses(arm):
        chosen = (
            f"No fixed weights keep the limits ({limits_in_words(comparison.scoring)}). The best score on validation "
            f"has {arm_label(arm)}, which misses the limit of {' and '.join(missed)}."
        )
    gains = [(comparison.baseline_gain, "the weights of today")] if comparison.baseline != "equal" else []
    equal = best_version(comparison.confirm, "equal")
    gains.append((gain_over(comparison.confirm, arm, equal), _equal_words(comparison)))
    compared = [_compared(gain, other) for gain, other in gains if math.isfinite(gain.mean)]
    return Answer(question, (chosen, *_epoch(comparison), *compared, *_unconfirmed(comparison)))


def _unconfirmed(comparison: Comparison) -> tuple[str, ...]:
    waiting = [arm_label(arm) for arm in unconfirmed(comparison)]
    return tuple(f"The shortlist found {arm} best; the confirm phase has not trained it yet." for arm in waiting)


def _epoch(comparison: Comparison) -> tuple[str, ...]:
    """Say which epoch's network to keep, if it is not the last."""
    if comparison.best_epochs is None:
        return ()
    first, last = comparison.best_epochs
    return (f"Keep the network of the best epoch on validation, as every trial here ({span(first, last)}).",)


def _within(comparison: Comparison) -> str:
    return ", of those that keep the limits" if comparison.scoring.limits else ""


def _equal_words(comparison: Comparison) -> str:
    today = ", the weights of today" if comparison.baseline == "equal" else ""
    return f"equal weights{today}" + " with their best arguments" * bool(comparison.tuning.sets)


def moving_winner(comparison: Comparison) -> Answer | None:
    """Answer if an arm whose weights move during training is better; ``None`` if the best arm has fixed weights."""
    winner = comparison.winner
    if not winner.moves:
        return None
    line = line_of(winner)
    found = [f"{arm_label(winner.arm)} is the best arm on validation{_within(comparison)}."]
    if missed := comparison.misses(winner.arm):
        found = [
            f"{arm_label(winner.arm)} has the best score of all, and misses the limit of {' and '.join(missed)}."
        ]
    found += [_compared(winner.gain, "the best fixed weights")] if math.isfinite(winner.gain.mean) else []
    if judge(winner.gain, comparison.margin) == "equivalent":
        found += ["This is within the study's margin: the difference does not matter."]
    found += ["Its weights move during training, so no weights file can hold it."]
    found += [f"To train with it{_meaning(line.where)}:"] if line else []
    sentences = tuple(text[0].upper() + text[1:] for text in found)
    return Answer("Is anything better than fixed weights?", sentences, line.text if line else "", _short(comparison))


def _short(comparison: Comparison) -> str:
    """Return the answer about a moving winner in one sentence; it ends with a colon if the code is to follow."""
    winner = comparison.winner
    label = arm_label(winner.arm)
    gain = f"{plus_minus(winner.gain)} {POINTS}" if math.isfinite(winner.gain.mean) else "an unknown amount"
    if judge(winner.gain, comparison.margin) == "equivalent":
        return f"{label[0].upper()}{label[1:]} is, by {gain}: within the study's margin."
    return f"{label[0].upper()}{label[1:]} is, by {gain} on test. Its weights move during training; to train with it:"


def _meaning(where: tuple[str, ...]) -> str:
    return f" ({' and '.join(where)})" if where else ""


def _compared(gain: Interval, other: str) -> str:
    """Return a gain in percentage points of score, above 0 if the arm is better than the other."""
    amount = f"{_amount(gain)} {POINTS}"
    if not math.isfinite(gain.low):
        side = "better" if gain.mean >= 0 else "worse"
        return f"On the test split it is {amount} {side} than {other} (one seed gives no interval)."
    if gain.low <= 0 <= gain.high:
        return f"On the test split it cannot be distinguished from {other}: {amount}."
    return f"On the test split it is {amount} {'better' if gain.mean > 0 else 'worse'} than {other}."


def _amount(found: Interval) -> str:
    """Return a difference and half its 95% interval, with a sign only if the interval contains 0."""
    contains_zero = math.isfinite(found.low) and found.low <= 0 <= found.high
    return plus_minus(found) if contains_zero else plus_minus(found).lstrip("+-")


def _worth(comparison: Comparison) -> Answer:
    verdict, other = comparison.verdict, rival(comparison)
    amount, regret = f"{_amount(verdict.regret)} {POINTS}", f"{plus_minus(verdict.regret)} {POINTS}"
    worth_it, not_worth_it = ("Yes. ", "No. ") if comparison.searched else ("", "")
    texts = {
        "better": f"{not_worth_it}GradNorm is better than {other} by {amount}.",
        "equivalent": f"{not_worth_it}GradNorm is as good as {other}: its regret is {regret}.",
        "worse": f"{worth_it}GradNorm is worse than {other} by {amount}.",
        "inconclusive": f"Not decided. GradNorm's regret against {other} is {regret}.",
        "none": f"There is no verdict: {verdict.reason}.",
    }
    more = f"For a verdict, {more_seeds(verdict)}."
    advice = [more] if verdict.kind == "inconclusive" else []
    question = "Was the grid search worth it?" if comparison.searched else f"Is GradNorm better than {other}?"
    return Answer(question, (texts[verdict.kind], *advice))


def _worth_without_gradnorm(comparison: Comparison) -> Answer:
    """Compare the best static arm with the best arm that needs no search, both on validation."""
    question, static, arms = "Was the grid search worth it?", comparison.verdict.static, comparison.arms
    others = arms[~arms["kind"].isin((*SEARCHED, *OUTSIDE, REFINED)) & arms["score_val"].notna()]
    gains = [(arm, gain_over(comparison.confirm, arm, static)) for arm in others["arm"].head(1)]
    if not gains or not math.isfinite(gains[0][1].mean):
        return Answer(question, ("Nothing to compare it with has a score on the confirm seeds.",))
    arm, gain = gains[0]  # above 0 if the static arm is worse
    one, other = arm_label(static), arm_label(arm)
    amount, difference = f"{_amount(gain)} {POINTS}", f"{plus_minus(gain)} {POINTS}"
    texts = {
        "better": f"Yes. The best static weights, {one}, are better than {other} by {amount}.",
        "equivalent": f"No. The best arm without a search, {other}, is as good: {difference}.",
        "worse": f"No. The best arm without a search, {other}, is better by {amount}.",
        "inconclusive": f"Not decided. The best arm without a search, {other}, cannot be distinguished from the best "
        f"static weights: {difference}.",
    }
    return Answer(question, (texts[judge(gain, comparison.margin)],))


def _cost(comparison: Comparison) -> Answer:
    question = "What did it cost?"
    cost = cost_by_way(comparison)
    if not (comparison.searched and comparison.swept):
        one = cost[ONE_FIXED]
        if not one["seconds"] > 0:
            return Answer(question, ("No run with fixed weights has ended.",))
        name, whole = (
            ("static search", cost["static search"]) if comparison.searched else ("whole search", cost[WHOLE])
        )
        times = f"{ratio(whole['seconds'] / one['seconds'])} times the seconds of one run with fixed weights"
        return Answer(question, (f"The {name}, {whole['trials']:g} runs, took {times}.",))
    static, sweeps = cost["static search"], cost["GradNorm, all alpha sweeps"]
    missing = [name for name, row in (("static search", static), ("alpha sweep", sweeps)) if not row["steps"]]
    if missing:
        return Answer(question, (f"It cannot be compared: no trial of the {' or the '.join(missing)} has run.",))
    text = f"All alpha sweeps took {ratio(sweeps['seconds_ratio'])} times the seconds of the static search"
    run = one_run(comparison, cost)
    known = math.isfinite(run["seconds_ratio"])
    single = f", one GradNorm run {ratio(run['seconds_ratio'])} times" if known else ""
    return Answer(question, (f"{text}{single}.",))
