"""The tables of studies with tuned learning rates, by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from benchmarks.few_runs import PROBLEMS
from benchmarks.tuned_rates import FACTORS, study_file
from benchmarks.tuned_rates_tables import FIXED_RATE, TUNED, gains, regrets, sides
from hpo.problems.registry import arguments_of
from hpo.study.study_file import study_from

FAST = "@learning_rate=0.1"


def rows(arm: str, *scores: float, phase: str = "confirm") -> list[dict[str, Any]]:
    kind = arm.partition("/")[0].partition("@")[0]
    same = {"phase": phase, "arm": arm, "kind": kind}
    return [same | {"seed": seed, "score_val": x, "score_test": x} for seed, x in enumerate(scores, 1)]


@pytest.fixture
def study() -> pd.DataFrame:
    """At the problem's own rate GradNorm is best, at its best rate the first static point is."""
    return pd.DataFrame(
        rows("equal", 5.0, 7.0)
        + rows("static/01", 4.0, 5.0)
        + rows(f"static/01{FAST}", 0.0, 1.0)
        + rows("static/02", 3.0, 4.0)
        + rows("gradnorm/direct/alpha=0", 2.0, 2.5)
        + rows(f"gradnorm/direct/alpha=0{FAST}", 1.0, 2.0)
        + rows("single_task/near", 0.0, 0.0)
        + rows("static/09", -9.0, phase="static")
    )


def test_each_side_has_its_own_best_static_point(study: pd.DataFrame) -> None:
    both = sides(study)
    assert {rate: side.static for rate, side in both.items()} == {FIXED_RATE: "static/02", TUNED: "static/01"}
    assert both[FIXED_RATE].regret("gradnorm/direct/alpha=0").tolist() == [-1.0, -1.5]
    assert both[TUNED].regret("gradnorm/direct/alpha=0").tolist() == [1.0, 1.0]
    assert both[TUNED].regret("equal").tolist() == [5.0, 6.0]


def test_the_table_shows_regrets_and_ranks_of_both_sides(study: pd.DataFrame) -> None:
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in regrets({"census": study}, ()).splitlines()
    ]
    shown = {(row[0], row[1]): (row[2].partition(" ")[0], row[3]) for row in cells[2:]}
    assert shown == {
        ("best static point", "fixed"): ("0", "2.0"),
        ("best static point", "tuned"): ("0", "1.0"),
        ("equal weights", "fixed"): ("+2.50", "3.0"),
        ("equal weights", "tuned"): ("+5.50", "3.0"),
        ("direct, dynamic", "fixed"): ("-1.25", "1.0"),
        ("direct, dynamic", "tuned"): ("+1.00", "2.0"),
    }


def test_gains_are_paired_and_name_the_rates(study: pd.DataFrame) -> None:
    cells = [cell.strip() for cell in gains({"census": study}).splitlines()[2].strip("|").split("|")]
    assert cells[1].endswith(": 0.1")
    assert cells[2].endswith(": 0.1")
    assert cells[3].startswith("+0.75 (")
    assert cells[4].startswith("+4.00 (")
    assert [cell.partition(" ")[0] for cell in cells[5:]] == ["-1.25", "+1.00"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_studies_are_valid_and_tune_around_the_problems_own_rate(problem: str) -> None:
    study = study_from(study_file(problem)).study
    own = arguments_of(study.problem.name)["learning_rate"]
    assert study.tune is not None
    assert study.tune.trials == 1 + len(FACTORS)
    assert study.tune.arguments == {"learning_rate": {"choice": [pytest.approx(own * factor) for factor in FACTORS]}}
