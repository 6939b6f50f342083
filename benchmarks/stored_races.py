"""Replay the race of the shortlist with other numbers of arms: python -m benchmarks.stored_races

`python -m benchmarks.few_runs` has trained every arm of the shortlist on six seeds. Each race takes three of these in
each order: all arms on the first, then as many as a rule says on the second and the third
(`hpo.compare.race.survivors`). Shown are, as means over the races, the training runs beyond the first seed, and the
score on test of the picked weights above that of the best of the arms, over all six seeds.
"""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks.markdown_table import markdown_table
from hpo.compare.race import leader, survivors
from hpo.core.arm import FIXED, REFERENCE, Arm

STORED = Path(__file__).parents[1] / "docs" / "results" / "few-runs"
RULES = ((4, 3), (3, 3), (3, 2), (2, 2))  # arms at most on the second and the third seed


class Races(NamedTuple):
    """Means over the races of one problem under one rule."""

    runs: float
    regret: float


def races(confirmed: pd.DataFrame, rule: tuple[int, ...]) -> Races:
    """Race in every order of three seeds.

    Args:
        confirmed: the trials of the confirm seeds, with ``arm, seed, score_val, score_test``.
        rule: arms at most on each seed after the first.
    """
    validation = confirmed.pivot_table(index="seed", columns="arm", values="score_val")
    fixed = [arm for arm in validation if Arm.parse(str(arm)).kind in FIXED]
    test = confirmed.pivot_table(index="seed", columns="arm", values="score_test").mean()
    runs, regrets = [], []
    for seeds in permutations(validation.index, 1 + len(rule)):
        scores, count = validation.loc[[seeds[0]]], 0
        for seed, most in zip(seeds[1:], rule, strict=True):
            again = survivors(scores, most)
            if len(again) < 2:
                break
            count += len(again)
            scores = pd.concat([scores, validation.loc[[seed], again]])
        runs.append(count)
        regrets.append(test[leader(scores, fixed)] - test[fixed].min())
    return Races(float(np.mean(runs)), float(np.mean(regrets)))


def main() -> None:
    """Print a table of all problems that are stored."""
    heads = [f"{rule[0]}, then {rule[1]}: runs / regret" for rule in RULES]
    rows = []
    for path in sorted(STORED.glob("*.csv")):
        trials = pd.read_csv(path)
        trials = trials[(trials["way"] == "shortlist") & (trials["phase"] == "confirm")]
        found = [races(trials[trials["kind"] != REFERENCE], rule) for rule in RULES]
        rows.append([path.stem, *(f"{one.runs:.1f} / {one.regret:.2f}" for one in found)])
    print(markdown_table(["problem", *heads], rows))


if __name__ == "__main__":
    main()
