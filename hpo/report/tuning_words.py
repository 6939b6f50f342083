"""Sentences on tuning: how much of a regret is due to the problem's arguments."""

from __future__ import annotations

import math
from collections.abc import Iterator

from hpo.compare import Comparison
from hpo.core.number_format import signed
from hpo.report.sentences import plus_minus


def tuning_sentences(comparison: Comparison) -> tuple[str, ...]:
    """Return what tuning contributes to the regret of GradNorm; nothing without tuning."""
    return tuple(_sentences(comparison)) if comparison.tuning.sets else ()


def _sentences(comparison: Comparison) -> Iterator[str]:
    names = ", ".join(next(iter(comparison.tuning.sets.values())))
    common, own = comparison.tuning.common, comparison.verdict
    count = len(comparison.tuning.sets)
    yield f"Each arm was trained with {count} sets of arguments ({names}) and counts with its best."
    if not (math.isfinite(common.regret.mean) and math.isfinite(own.regret.mean)):
        return
    yield f"GradNorm's regret is {plus_minus(own.regret)}."
    yield f"With the problem's own arguments for all arms it is {plus_minus(common.regret)}."
    yield f"So tuning moves it by {signed(own.regret.mean - common.regret.mean)} percentage points."
    if common.kind != own.kind and "none" not in (common.kind, own.kind):
        yield f"The verdict depends on them: {common.kind} without tuning, {own.kind} with it."
