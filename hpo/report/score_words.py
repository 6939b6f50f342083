"""The score of a study in words; none where every task counts alike by its relative change."""

from __future__ import annotations

from collections.abc import Iterator

from hpo.compare import Scoring


def score_words(scoring: Scoring) -> tuple[str, ...]:
    """Return a sentence for each setting that is not the default."""
    return *_changes(scoring), *_priorities(scoring), *_limits(scoring)


def _changes(scoring: Scoring) -> Iterator[str]:
    for task, how in scoring.items():
        if how.change == "absolute":
            yield f"The change of {task} is 100 times the difference to its single-task network (absolute)."
        elif how.change != "relative":
            yield f"The change of {task} is the difference to its single-task network in percent of {how.change:g}."


def _priorities(scoring: Scoring) -> Iterator[str]:
    for task, how in scoring.items():
        if how.priority == 0:
            yield f"The score leaves {task} out, an auxiliary task (priority 0)."
        elif how.priority != 1:
            yield f"The score counts {task} {how.priority:g} times."


def _limits(scoring: Scoring) -> Iterator[str]:
    for task, limit in scoring.limits.items():
        yield f"The limit of {task} is {limit:g}% behind its single-task network, on validation."
    if scoring.limits:
        yield "Limits are kept with confidence: a one-sided 95% bound over the confirm seeds."


def limits_in_words(scoring: Scoring) -> str:
    """Return the limits in a few words: "depth at most 2% behind"."""
    return ", ".join(f"{task} at most {limit:g}% behind" for task, limit in scoring.limits.items())
