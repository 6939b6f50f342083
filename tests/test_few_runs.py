"""The tables of weights in a few runs, by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from benchmarks.few_runs import PROBLEMS, SAMPLERS, study_file, ways
from benchmarks.few_runs_tables import all_seeds_pick, one_seed_pick, program_pick, tables
from benchmarks.stored_races import races
from hpo.study.study_file import study_from

Row = dict[str, Any]


def rows(way: str, phase: str, arm: str, seeds: range, *scores: tuple[float, float], steps: int = 10) -> list[Row]:
    same = {"way": way, "phase": phase, "arm": arm, "steps": steps, "seconds": float(steps)}
    found = zip(seeds, scores, strict=True)
    return [same | {"seed": seed, "score_val": val, "score_test": test} for seed, (val, test) in found]


@pytest.fixture
def study() -> pd.DataFrame:
    """On the search seed first-step weights are best; on all seeds E_t[w] is, also in the race, and is named."""
    search, confirm = range(1), range(1, 3)
    ours, late = "gradnorm_static/direct/geometric/alpha=0", "static/02"
    nan = float("nan")
    return pd.DataFrame(
        rows("static search", "static", "static/01", search, (1.0, nan))
        + rows("static search", "static", late, search, (2.0, nan), steps=30)
        + rows("static search", "confirm", "static/01", confirm, (5.0, 6.0), (5.0, 8.0))
        + rows("static search", "confirm", late, confirm, (4.0, 5.0), (4.0, 5.0))
        + rows("shortlist", "shortlist", "frozen/loss", search, (0.0, nan))
        + rows("shortlist", "shortlist", "frozen/loss", range(7, 8), (9.0, nan))
        + rows("shortlist", "shortlist", ours, search, (0.5, nan))
        + rows("shortlist", "shortlist", ours, range(7, 8), (1.0, nan))
        + rows("shortlist", "confirm", "frozen/loss", confirm, (7.0, 7.0), (7.0, 9.0))
        + rows("shortlist", "confirm", ours, confirm, (3.0, 4.0), (3.0, 3.0))
    )


def test_picks(study: pd.DataFrame) -> None:
    ours = "gradnorm_static/direct/geometric/alpha=0"
    assert program_pick(study, "shortlist") == (ours, "static/02")
    assert one_seed_pick(study, "shortlist") == ("frozen/loss", "static/01")
    assert all_seeds_pick(study, "shortlist") == (ours, "static/02")


def test_a_row_has_regrets_on_test_and_costs_before_the_confirm_phase(study: pd.DataFrame) -> None:
    (row,) = tables({"toy": study}, ["census", "toy"]).splitlines()[2:]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["toy", "shortlist"]
    assert cells[3].startswith("-1.50 (")
    assert cells[4].startswith("+1.00 (")
    assert cells[5] == cells[3]
    assert cells[6:] == ["4", "1", "1"]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_its_studies_can_be_read(problem: str) -> None:
    for parts in ways(SAMPLERS).values():
        assert study_from(study_file(problem, parts)).study.name == f"few-runs-{problem}"


def test_replayed_races_count_runs_beyond_the_first_seed_and_the_regret_of_the_pick() -> None:
    seeds = range(1, 4)
    early = rows("shortlist", "confirm", "frozen/loss", seeds, (1.0, 9.0), (1.0, 9.0), (1.0, 9.0))
    best = rows("shortlist", "confirm", "equal", seeds, (2.0, 4.0), (2.2, 4.0), (2.1, 4.0))
    moving = rows("shortlist", "confirm", "gradnorm/direct/alpha=0", seeds, (3.0, 0.0), (3.1, 0.0), (3.2, 0.0))
    found = races(pd.DataFrame(early + best + moving), (2, 2))
    assert found == (2.0, 5.0)  # frozen/loss by validation alone; GradNorm's moving weights are no pick
    assert races(pd.DataFrame(early + best + moving), (1, 1)) == (0.0, 5.0)
