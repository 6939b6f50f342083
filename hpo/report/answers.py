"""The answers to what people ask: which weights, was the search worth it, what did it cost. Statistics come later."""

from __future__ import annotations

import math
from typing import NamedTuple

from hpo.compare import Comparison, Interval, gain_over, judge
from hpo.compare.cost import ONE_FIXED, WHOLE
from hpo.core.number_format import ratio, signed
from hpo.report.arm_labels import arm_label
from hpo.report.sentences import cost_by_way, more_seeds, one_run, rival
from hpo.report.training_code import line_of

POINTS = "percentage points"


class Answer(NamedTuple):
    """A question with its answer.

    Attributes:
        question: in the reader's words.
        sentences: the answer; no sentence has more than two numbers.
        code: a line to copy; empty if there is none.
    """

    question: str
    sentences: tuple[str, ...]
    code: str = ""

    @property
    def text(self) -> str:
        """The sentences and the code in one line."""
        return " ".join([*self.sentences, *([self.code] if self.code else [])])


def answers(comparison: Comparison) -> list[Answer]:
    """Answer the questions in the order in which people ask them: weights, worth, cost."""
    moving = moving_winner(comparison)
    worth = [_worth(comparison)] if comparison.searched or comparison.verdict.kind != "none" else []
    return [_weights(comparison), *([moving] if moving else []), *worth, _cost(comparison)]


def _weights(comparison: Comparison) -> Answer:
    question = "Which weights should I train with?"
    arm = comparison.recommended
    if not arm:
        missing = "No arm with fixed weights has finished the confirm phase."
        return Answer(question, (missing, "The same command again resumes a stopped study."))
    so_far = " so far" if comparison.searched and comparison.verdict.kind in ("none", "inconclusive") else ""
    chosen = f"Train with {arm_label(arm)}: it has the best fixed weights on validation{so_far}."
    if arm == comparison.baseline:
        chosen = f"Keep the weights that you have: none has done better on validation{so_far}."
    gains = [(comparison.baseline_gain, "the weights of today")] if comparison.baseline != "equal" else []
    gains.append((gain_over(comparison.confirm, arm, "equal"), _equal_words(comparison)))
    return Answer(question, (chosen, *(_compared(gain, other) for gain, other in gains if math.isfinite(gain.mean))))


def _equal_words(comparison: Comparison) -> str:
    today = ", the weights of today" if comparison.baseline == "equal" else ""
    return f"equal weights{today}"


def moving_winner(comparison: Comparison) -> Answer | None:
    """The best arm of all, where its weights move during training; ``None`` where a weights file can hold it."""
    winner = comparison.winner
    if not winner.moves:
        return None
    line = line_of(winner)
    found = [f"{arm_label(winner.arm)} did best on validation."]
    found += [_compared(winner.gain, "the best fixed weights")] if math.isfinite(winner.gain.mean) else []
    if judge(winner.gain, comparison.margin) == "equivalent":
        found += ["That is within the study's margin: no difference that matters."]
    where = f", where {' and '.join(line.where)}" if line and line.where else ""
    found += [f"Its weights move during training, so no weights file can hold it{where}."]
    sentences = tuple(text[0].upper() + text[1:] for text in found)
    return Answer("Is anything better than fixed weights?", sentences, line.text if line else "")


def _compared(gain: Interval, other: str) -> str:
    """A gain in points of score, above 0 where the first is better."""
    amount = f"{_plus_minus(gain)} {POINTS}"
    if not math.isfinite(gain.low):
        side = "better" if gain.mean >= 0 else "worse"
        return f"On the test split it is {amount} {side} than {other} (one seed gives no interval)."
    if gain.low <= 0 <= gain.high:
        return f"On the test split it cannot be distinguished from {other}: {amount}."
    return f"On the test split it is {amount} {'better' if gain.mean > 0 else 'worse'} than {other}."


def _plus_minus(found: Interval) -> str:
    """A difference and half its 95% interval; the sign only where the interval contains 0."""
    open_ = math.isfinite(found.low) and found.low <= 0 <= found.high
    mean = signed(found.mean) if open_ else signed(abs(found.mean)).lstrip("+")
    if not math.isfinite(found.low):
        return mean
    return f"{mean} \N{PLUS-MINUS SIGN} {signed((found.high - found.low) / 2).lstrip('+')}"


def _worth(comparison: Comparison) -> Answer:
    verdict, other = comparison.verdict, rival(comparison)
    amount = f"{_plus_minus(verdict.regret)} {POINTS}"
    worth_it, not_worth_it = ("Yes. ", "No. ") if comparison.searched else ("", "")
    texts = {
        "better": f"{not_worth_it}GradNorm is better than {other} by {amount}.",
        "equivalent": f"{not_worth_it}GradNorm is as good as {other}: the difference is {amount}.",
        "worse": f"{worth_it}GradNorm is worse than {other} by {amount}.",
        "inconclusive": f"Not decided. GradNorm's difference to {other} is {amount}.",
        "none": f"There is no verdict: {verdict.reason}.",
    }
    more = f"For a verdict, {more_seeds(verdict)}."
    told = (texts[verdict.kind], *([more] if verdict.kind == "inconclusive" else []))
    question = "Was the grid search worth it?" if comparison.searched else f"Is GradNorm better than {other}?"
    return Answer(question, told)


def _cost(comparison: Comparison) -> Answer:
    question = "What did it cost?"
    cost = cost_by_way(comparison)
    if not comparison.searched:
        whole, one = cost[WHOLE], cost[ONE_FIXED]
        if not one["seconds"] > 0:
            return Answer(question, ("No run with fixed weights has ended.",))
        times = f"{ratio(whole['seconds'] / one['seconds'])} times the seconds of one run with fixed weights"
        return Answer(question, (f"The whole search, {whole['trials']:g} runs, took {times}.",))
    static, sweeps = cost["static search"], cost["GradNorm, all alpha sweeps"]
    missing = [name for name, row in (("static search", static), ("alpha sweep", sweeps)) if not row["steps"]]
    if missing:
        return Answer(question, (f"It cannot be compared: no trial of the {' or the '.join(missing)} has run.",))
    told = [f"All alpha sweeps took {ratio(sweeps['seconds_ratio'])} times the seconds of the static search."]
    run = one_run(comparison, cost)
    if math.isfinite(run["seconds_ratio"]):
        told += [f"One GradNorm run took {ratio(run['seconds_ratio'])} times its seconds."]
    return Answer(question, tuple(told))
