"""The best arm of all, whether a file can hold its weights, and what it gains over those that one can."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hpo.compare import Interval, compare
from hpo.compare.winner import Winner
from hpo.core.arm import FIXED
from tests.helpers.compare_tables import arm, compared, row
from tests.helpers.report_builder import Builder

FIXED_ARMS = ["static/01", "equal", "frozen/loss", "gradnorm_static/paper/tail"]
MOVING_ARMS = ["gradnorm/paper/alpha=1", "uncertainty", "famo", "mgda"]


@pytest.mark.parametrize("best", [*FIXED_ARMS, *MOVING_ARMS])
def test_the_best_on_validation_wins_whatever_its_kind(best: str) -> None:
    others = [name for name in [*FIXED_ARMS, *MOVING_ARMS] if name != best]
    rows = [arm(name, [5.0 + i] * 3, [-9.0] * 3) for i, name in enumerate(others)]  # all better on test
    comparison = compared(*rows, arm(best, [1.0] * 3, [2.0] * 3))
    found = comparison.winner
    assert (found.arm, found.kind, found.exportable) == (best, best.split("/")[0], best in FIXED_ARMS)
    assert found.moves is (best in MOVING_ARMS)
    assert found.exportable is (found.arm == comparison.recommended)


@pytest.mark.parametrize("outside", ["single_task/error", "known_optimum"])
def test_references_never_win(outside: str) -> None:
    comparison = compared(arm("static/01", [1.0] * 3, [1.0] * 3), arm(outside, [-9.0] * 3, [-9.0] * 3))
    assert comparison.winner.arm == comparison.recommended == "static/01"


def test_its_gain_is_paired_by_seed_on_test() -> None:
    fixed, moving = [3.0, 1.0, 4.0], [1.0, 0.5, -2.0]
    comparison = compared(
        arm("static/01", [1.0] * 3, fixed),
        arm("static/02", [9.0] * 3, [-9.0] * 3),  # best on test, but validation did not choose it
        arm("uncertainty", [0.0] * 3, moving),
    )
    oracle = stats.ttest_rel(fixed, moving).confidence_interval(0.95)
    expected = Interval(float(np.mean(np.subtract(fixed, moving))), float(oracle.low), float(oracle.high), 3)
    assert comparison.winner.gain == pytest.approx(expected)
    assert comparison.winner.gain.mean > 0


def test_only_seeds_that_both_have_are_paired() -> None:
    lost = [row("static/01", 2, status="diverged"), *arm("static/01", [1.0], [4.0]), row("static/01", 3, 1.0, 6.0)]
    found = compared(lost, arm("uncertainty", [0.0] * 3, [1.0, 99.0, 1.0])).winner
    assert (found.arm, found.gain.mean, found.gain.seeds) == ("uncertainty", pytest.approx(4.0), 2)


def test_an_arm_that_lost_a_seed_does_not_win() -> None:
    lucky = [row("uncertainty", 1, -30.0, -30.0), *(row("uncertainty", s, status="diverged") for s in (2, 3))]
    assert compared(lucky, arm("static/01", [2.0] * 3, [2.0] * 3)).winner.arm == "static/01"


def test_what_it_was_trained_with() -> None:
    trials = Builder(winner="gradnorm/annealed/alpha=1.339,lr=0.0123").trials()
    trials["learning_rate"] = np.where(trials["arm"] == "gradnorm/annealed/alpha=1.339,lr=0.0123", 0.0123, np.nan)
    found = compare(trials, Builder().scoring, 1.0).winner
    assert (found.recipe, found.alpha, found.learning_rate, found.steps) == ("annealed", 1.339, 0.0123, 1170)


def test_without_fixed_weights_or_without_any_arm() -> None:
    alone = compared(arm("uncertainty", [0.0] * 3, [0.0] * 3))
    assert (alone.winner.arm, alone.winner.moves, alone.recommended) == ("uncertainty", True, "")
    assert math.isnan(alone.winner.gain.mean)
    nothing = compared().winner
    assert (nothing.arm, nothing.moves, nothing.exportable) == ("", False, False)
    assert Winner().moves is False


def test_the_best_fixed_weights_gain_nothing_over_themselves() -> None:
    comparison = Builder(verdict="worse").data().comparison
    assert comparison.winner.arm == comparison.recommended
    assert comparison.winner.kind in FIXED
    assert math.isnan(comparison.winner.gain.mean)
