"""Whole studies, and any part of one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from hpo.compare import compare
from tests.helpers.report_builder import Builder


@pytest.mark.parametrize("word", ["better", "equivalent", "worse"])
@pytest.mark.parametrize("T", [2, 5])
def test_a_study_of_many_tasks(word: str, T: int) -> None:
    """On the report's made-up study, whose metrics have both directions and many scales."""
    builder = Builder(T=T, verdict=word, points=8, diverged=())
    comparison = compare(builder.trials(), builder.scoring, 1.0)
    assert comparison.verdict.kind == word
    assert comparison.verdict.regret.seeds == 5
    confirm = comparison.confirm
    pair = [
        confirm[confirm["arm"] == name].sort_values("seed")
        for name in (comparison.verdict.arm, comparison.verdict.static)
    ]
    oracle = stats.ttest_rel(*(one["score_test"] for one in pair)).confidence_interval(0.95)
    assert comparison.verdict.paired[1:3] == pytest.approx(tuple(oracle))


def test_any_part_of_a_study_can_be_compared() -> None:
    builder = Builder(points=3, seeds=2)
    trials = builder.trials()
    random = np.random.default_rng(0)
    parts = [trials.iloc[:n] for n in range(0, len(trials), 4)]
    parts += [trials[random.random(len(trials)) < share] for share in np.linspace(0.1, 0.9, 10)]
    parts += [trials.assign(status=status) for status in ("diverged", "failed")]
    for part in parts:
        comparison = compare(part, builder.scoring, 1.0)
        assert len(comparison.search) + (part["phase"] == "confirm").sum() == len(part)
        assert comparison.verdict.kind in ("better", "equivalent", "worse", "inconclusive", "none")
        assert comparison.cost["way"].iloc[0] == "static search"
        assert set(comparison.arms["arm"]) == set(comparison.confirm["arm"])
    assert (comparison.verdict.kind, comparison.recommended) == ("none", "")
    assert compare(trials, builder.scoring, 1.0).verdict.kind != "none"
