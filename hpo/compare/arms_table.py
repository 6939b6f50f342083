"""The arms of the confirm phase, one row each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hpo.compare.intervals import interval, judge, regret
from hpo.compare.limits import kept_arms
from hpo.compare.rank_correlation import spearman
from hpo.compare.scores import generalisation_gap
from hpo.compare.scoring import Scoring
from hpo.compare.verdicts import Verdict, best_arm
from hpo.compare.weight_distances import mean_weights
from hpo.core.arm import FIXED, OUTSIDE

SMALLEST = 1e-6  # percentage points; smaller differences are rounding


def arms_table(
    confirm: pd.DataFrame, scoring: Scoring, margin: float, found: Verdict, limits: pd.DataFrame
) -> pd.DataFrame:
    """Build the table of arms, one row per arm, best validation score first.

    Args:
        confirm: trials of the confirm seeds with ``score_val`` and ``score_test``.
        scoring: how each task is measured.
        margin: of equivalence.
        found: the verdict, which names the best static arm.
        limits: of `hpo.compare.limits.limits_table`.

    Returns:
        The columns of `hpo.compare.Comparison.arms`.
    """
    tasks = tuple(scoring)
    confirm = confirm.assign(gap=generalisation_gap(confirm, scoring))
    groups = {str(name): group for name, group in confirm.groupby("arm", sort=False)}
    static, recommended = found.static, best_arm(confirm, FIXED, kept_arms(limits, scoring))
    missed = limits[~limits["kept"].astype(bool)].groupby("arm")["task"].agg(", ".join).to_dict()
    rows, w = [], mean_weights(confirm, tasks)
    for name, group in groups.items():
        first, score_test = group.iloc[0], interval(group["score_test"].dropna())
        row = {column: first[column] for column in ("arm", "kind", "recipe", "alpha")}
        row |= {
            "seeds": len(group),
            "score_seeds": score_test.seeds,
            "score_val": group["score_val"].mean(),
            "score_test": score_test.mean,
        }
        row |= {"low": score_test.low, "high": score_test.high, "steps": group["steps"].mean()}
        row |= {"seconds": group["seconds"].mean(), "recommended": name == recommended, "best_static": name == static}
        row |= _against(group, groups.get(static) if name != static else None, margin)
        row |= {"chosen": found.chosen.get(name, np.nan), "gap": group["gap"].mean(), "misses": missed.get(name, "")}
        row |= {
            f"{split}/{task}": group[f"{split}/{task}"].mean()
            for split in ("train", "val", "test")
            for task in tasks
            if f"{split}/{task}" in group
        }
        rows.append(row | w.loc[name].to_dict())
    columns = ["arm", "kind", "recipe", "alpha", "score_val", "score_test", "recommended", "best_static", "regret"]
    columns += ["verdict", "gap", "chosen", "misses", *(f"w/{task}" for task in tasks)]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    table = table.astype({"recommended": bool, "best_static": bool})
    table["dominated_by"] = dominated_by(table, scoring)
    return table.sort_values("score_val", kind="stable", na_position="last").reset_index(drop=True)


def dominated_by(arms: pd.DataFrame, scoring: Scoring) -> list[str]:
    """Return for each arm the arm that dominates it: at least as good on every task and better on one; else empty.

    Compared are means over seeds of the test metrics; of several dominating arms, the one with the best test score is
    named. The other arms form the Pareto front. Single-task networks, which solve one task each, and arms without all
    metrics take no part.
    """
    columns = [f"test/{task}" for task in scoring]
    if arms.empty:
        return []
    costs = arms[columns].to_numpy(dtype=float) * np.array(scoring.directions)
    compared = np.isfinite(costs).all(axis=1) & ~arms["kind"].isin(OUTSIDE).to_numpy()
    names, scores = arms["arm"].tolist(), arms["score_test"].to_numpy(dtype=float)
    found = []
    for place, cost in enumerate(costs):
        better = compared & (costs <= cost).all(axis=1) & (costs < cost).any(axis=1)
        ranked = sorted(np.flatnonzero(better).tolist(), key=lambda other: float(scores[other]))
        found.append(names[ranked[0]] if compared[place] and ranked else "")
    return found


def _against(group: pd.DataFrame, static: pd.DataFrame | None, margin: float) -> dict[str, object]:
    values = pd.Series(dtype=float) if static is None else regret(group, static, "test")
    found = interval(values)
    word = judge(found, margin) if found.seeds else ""
    return {
        "regret": found.mean,
        "regret_low": found.low,
        "regret_high": found.high,
        "regret_seeds": found.seeds,
        "verdict": word,
    }


def order_agreement(arms: pd.DataFrame) -> float:
    """Return Spearman's rho of the arms' validation and test scores; NaN below three arms or for constant scores."""
    scored = arms.dropna(subset=["score_val", "score_test"])
    return float(spearman(scored["score_val"], [scored["score_test"]])[0])


def better_on_test(arms: pd.DataFrame, confirm: pd.DataFrame, kinds: Sequence[str], chosen: str) -> tuple[str, float]:
    """Find an arm that is better on test than the one that validation chose.

    An arm counts as better if its paired t interval lies below 0, at 95% for all arms together (Bonferroni). The
    result is a warning only: a choice made on the test split would bias the test score.

    Returns:
        The arm with the lowest mean regret against the chosen one, and that regret; ("", 0) if there is none.
    """
    others = [str(arm) for arm in arms.loc[arms["kind"].isin(kinds), "arm"] if arm != chosen]
    reference = confirm[confirm["arm"] == chosen]
    found = ("", 0.0)
    for arm in others:
        values = regret(confirm[confirm["arm"] == arm], reference, "test")
        wide = interval(values, 1 - 0.05 / len(others))
        if wide.high < -SMALLEST and wide.mean < found[1]:
            found = (arm, wide.mean)
    return found
